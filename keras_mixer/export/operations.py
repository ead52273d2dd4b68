"""Finds the operations of a SavedModel that older versions of TensorFlow Serving do not have.

A server rejects a SavedModel if its graph has a single operation, or attribute of an operation, that the server's
TensorFlow does not define. TensorFlow omits attributes with default values when it saves, so those are harmless.

`serving_operations.txt` lists the operations that both TensorFlow 2.19 and 2.20 run on CPUs, each with the attributes
known to both; `tests/serving_versions.py` writes and checks it.
"""

import functools
import warnings
from importlib import resources
from pathlib import Path

SERVERS = ("2.19", "2.20")  # the versions of `serving_operations.txt`


def newer_operations(path) -> list[str]:
    """Operations of a SavedModel that TensorFlow 2.19 or 2.20 does not have, sorted.

    A missing attribute is listed with its operation: "TensorListGetItem (attribute Tshape)". Custom operations are
    listed too. Data types and values of attributes are not checked.

    Args:
        path: folder of a SavedModel, with `saved_model.pb` inside.

    Returns:
        A list, empty if both versions have all operations.

    Source: `tensorflow/core/framework/node_def_util.cc`, ValidateNodeDef; attributes that start with `_` are ignored.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel.FromString((Path(path) / "saved_model.pb").read_bytes())
    known, newer = _serving_operations(), set()
    for graph in (meta_graph.graph_def for meta_graph in content.meta_graphs):
        functions = graph.library.function
        own = {function.signature.name for function in functions}  # a node may call a function by its name
        # the meta graph's stripped_op_list lacks the operations of nested functions, so all nodes are read
        for node in [*graph.node, *(node for function in functions for node in function.node_def)]:
            if node.op in own:
                continue
            if node.op not in known:
                newer.add(node.op)
                continue
            attributes = (name for name in node.attr if not name.startswith("_") and name not in known[node.op])
            newer.update(f"{node.op} (attribute {name})" for name in attributes)
    return sorted(newer)


def warn_of_newer_operations(path):
    """Warns if TensorFlow Serving 2.19 or 2.20 would reject the SavedModel at `path`, and lists the operations."""
    newer = newer_operations(path)
    if newer:
        name = "/".join(Path(path).parts[-2:])
        warnings.warn(
            f"TensorFlow Serving {' or '.join(SERVERS)} cannot load SavedModel {name}: it uses operations that this "
            f"version does not have on CPUs: {', '.join(newer)}. Serve it with a newer version, or export with "
            f"TensorFlow {SERVERS[-1]}.",
            stacklevel=3,
        )


@functools.cache
def _serving_operations() -> dict[str, frozenset[str]]:
    text = resources.files(__package__).joinpath("serving_operations.txt").read_text(encoding="utf-8")
    return {name: frozenset(attributes) for name, *attributes in map(str.split, text.splitlines())}

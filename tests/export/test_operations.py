import warnings
from pathlib import Path

import pytest
from tensorflow.core.protobuf import saved_model_pb2

from keras_mixer.export.operations import newer_operations, warn_of_newer_operations

SHIPPED = Path(__file__).parents[2] / "saved_models" / "mixer_digits" / "1"


def saved(folder, edit):
    """The shipped SavedModel's graph after an edit of the nodes of its functions, keyed by operation."""
    content = saved_model_pb2.SavedModel.FromString((SHIPPED / "saved_model.pb").read_bytes())
    functions = content.meta_graphs[0].graph_def.library.function
    edit({node.op: node for function in functions for node in function.node_def})
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(content.SerializeToString())
    return folder


def test_the_shipped_model_has_only_operations_of_older_versions():
    assert newer_operations(SHIPPED) == []
    with warnings.catch_warnings(action="error"):
        warn_of_newer_operations(SHIPPED)


def test_operations_and_attributes_that_older_versions_lack_are_named(tmp_path):
    def edit(nodes):
        nodes["Softmax"].op = "SoftmaxV9"
        nodes["DecodeImage"].op = "DecodeJxl"  # since TensorFlow 2.21
        nodes["Tanh"].attr["fast"].b = True
        nodes["MatMul"].attr["_private"].b = True  # may be there everywhere

    path = saved(tmp_path / "1", edit)
    assert newer_operations(path) == ["DecodeJxl", "SoftmaxV9", "Tanh (attribute fast)"]
    with pytest.warns(
        UserWarning, match=r"Serving 2.19 or 2.20 cannot load .*1: it uses .* CPUs: DecodeJxl, SoftmaxV9, Tanh"
    ) as caught:
        warn_of_newer_operations(path)
    assert len(caught) == 1


def test_a_call_of_a_function_by_its_name_is_not_an_operation(tmp_path):
    def edit(nodes):
        call = nodes["StatefulPartitionedCall"]
        call.op = call.attr["f"].func.name

    assert newer_operations(saved(tmp_path / "1", edit)) == []

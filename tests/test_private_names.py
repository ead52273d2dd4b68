"""Private names of Keras and TensorFlow that the package uses: all are listed here, and a missing one is told."""

import ast
import importlib
import re
from pathlib import Path

import keras
import pytest
import tensorflow as tf

from keras_mixer.training.optimizers import AdamW

pytestmark = pytest.mark.backends

ROOT = Path(__file__).parents[1]
INSTALLED = {"keras": keras.__version__, "tensorflow": tf.__version__}
OUTSIDE = ("keras.src", "tensorflow.python", "tensorflow.lite.python", "jax._src", "tyro._")
USED = {  # by file of the package
    "anatomy.py": "_inbound_nodes _keras_history",
    "primitives.py": "_layers",
    "export/tflite_metadata.py": "schema_py_generated",
    "training/devices.py": "_flatten_layers",
    "training/optimizers.py": "_all_reduce_sum_gradients _clip_gradients _get_current_learning_rate"
    " _get_variable_index _model_variables_moving_average _momentums _velocities",
    "training/training_model.py": "_loss_tracker _update_metrics_variables",
}
ONLY_ON = dict.fromkeys(("schema_py_generated", "_all_reduce_sum_gradients", "_loss_tracker"), "tensorflow")
ONLY_ON["_update_metrics_variables"] = "jax"


@pytest.fixture(scope="module")
def owners():
    importlib.import_module("tensorflow.lite.python.schema_py_generated")
    model, optimizer = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]), AdamW(1e-3, use_ema=True)
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    of_keras = model, model.layers[0], model.inputs[0], optimizer
    return (*of_keras, importlib.import_module("tensorflow.lite.python"))


@pytest.mark.parametrize(("file", "name"), [(file, name) for file, names in USED.items() for name in names.split()])
def test_a_private_name_is_there(owners, file, name):
    if ONLY_ON.get(name) in (None, keras.backend.backend()):
        assert any(hasattr(owner, name) for owner in owners), f"{INSTALLED} lack {name}, which keras_mixer/{file} uses"


def private_names(path):
    """The private names of others in one file: attributes that it does not define, overrides, imports."""
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    defined |= {"_exit", "_fields", "_replace"}  # documented, of os and of named tuples
    for node in nodes:
        if isinstance(node, ast.Attribute) and (node.attr not in defined or ast.unparse(node.value) == "super()"):
            yield node.attr
        elif isinstance(node, ast.FunctionDef):
            if any(hasattr(base, node.name) for base in (keras.optimizers.Optimizer, keras.Model)):
                yield node.name
        elif isinstance(node, ast.ImportFrom) and node.module.startswith(OUTSIDE):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(OUTSIDE))


def test_no_private_name_is_missing_from_the_list():
    package = ROOT / "keras_mixer"
    for path in package.rglob("*.py"):
        listed = set(USED.get(path.relative_to(package).as_posix(), "").split())
        found = {name for name in private_names(path) if re.match("_[^_]", name) or name == "schema_py_generated"}
        assert found <= listed, path
        if keras.backend.backend() == "tensorflow":  # overrides are seen where the backend has the name
            assert found == listed, path

"""Private names of Keras and TensorFlow that the package uses: all are listed here, and a missing one is told plainly.

`[tool.keras_mixer.tested]` in pyproject.toml says with which versions these tests have passed.
"""

import ast
import importlib
import re
import tomllib
from pathlib import Path

import keras
import pytest
import tensorflow as tf
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from keras_mixer.training.optimizers import AdamW

pytestmark = pytest.mark.backends

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TESTED = PROJECT["tool"]["keras_mixer"]["tested"]
INSTALLED = {"keras": keras.__version__, "tensorflow": tf.__version__}
DOCUMENTED = ("_exit", "_fields", "_replace")  # of os and of named tuples
OUTSIDE = ("keras.src", "tensorflow.python", "tensorflow.lite.python", "jax._src", "tyro._")


def optimizer():
    made = AdamW(1e-3, use_ema=True)
    made.build([keras.Variable([0.0])])
    return made


def model():
    made = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    made.compile("sgd", "mse")
    return made


def tflite():
    importlib.import_module("tensorflow.lite.python.schema_py_generated")
    return importlib.import_module("tensorflow.lite.python")


OPTIMIZER = keras.optimizers.Optimizer
# The file that uses a name, the name, a function that returns what has it, the only backend on which it is used.
USED = [
    ("anatomy.py", "_flatten_layers", model, None),
    ("anatomy.py", "_inbound_nodes", lambda: model().layers[0], None),
    ("anatomy.py", "_keras_history", lambda: keras.Input((1,)), None),
    ("composite.py", "_layers", model, None),
    ("export/tflite_metadata.py", "schema_py_generated", tflite, "tensorflow"),
    ("training/devices.py", "_flatten_layers", model, None),
    ("training/optimizers.py", "_all_reduce_sum_gradients", lambda: OPTIMIZER, "tensorflow"),
    ("training/optimizers.py", "_apply_weight_decay", lambda: OPTIMIZER, None),
    ("training/optimizers.py", "_clip_gradients", lambda: OPTIMIZER, None),
    ("training/optimizers.py", "_get_current_learning_rate", lambda: OPTIMIZER, None),
    ("training/optimizers.py", "_model_variables_moving_average", optimizer, None),
    ("training/training_model.py", "_loss_tracker", model, "tensorflow"),
    ("training/training_model.py", "_update_metrics_variables", model, "jax"),
]


@pytest.mark.parametrize(("file", "name", "holder", "backend"), USED)
def test_a_private_name_is_there(file, name, holder, backend):
    if backend not in (None, keras.backend.backend()):
        pytest.skip(f"used on {backend} only")
    there = hasattr(holder(), name)
    assert there, f"{INSTALLED} lack {name}, which keras_mixer/{file} uses; tested with {TESTED}."


def private_names(path):
    """The private names of others in one file: attributes that it does not define, overrides, imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree))
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    defined |= {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    bases = (keras.optimizers.Optimizer, keras.Model)
    for node in nodes:
        if isinstance(node, ast.Attribute) and re.match("_[^_]", node.attr) and node.attr not in DOCUMENTED:
            if node.attr not in defined or ast.unparse(node.value) == "super()":
                yield node.attr
        elif isinstance(node, ast.FunctionDef) and re.match("_[^_]", node.name):
            if any(hasattr(base, node.name) for base in bases):
                yield node.name
        elif isinstance(node, ast.ImportFrom) and node.module.startswith(OUTSIDE):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(OUTSIDE))


def test_no_private_name_is_missing_from_the_list():
    package = ROOT / "keras_mixer"
    paths = {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}
    found = {(file, name) for file, path in paths.items() for name in private_names(path)}
    listed = {(file, name) for file, name, *_ in USED}
    assert found <= listed
    if keras.backend.backend() == "tensorflow":  # overrides are seen where the backend has the name
        assert found == listed


@pytest.mark.parametrize("library", TESTED)
def test_the_installed_version_is_a_tested_one(library):
    assert Version(INSTALLED[library]) in SpecifierSet(TESTED[library]), (
        f"{library} {INSTALLED[library]} is installed, tested is {TESTED[library]}: run all tests with it, then change "
        "[tool.keras_mixer.tested] in pyproject.toml."
    )


def test_the_oldest_tested_version_is_the_oldest_that_installs():
    needs = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["cpu"]
    for library, tested in TESTED.items():
        (need,) = [need for need in needs if re.match(rf"{library}[>=]", need)]
        assert re.search(r">=([\d.]+)", need)[1] == re.search(r">=([\d.]+)", tested)[1], library

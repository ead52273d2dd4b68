"""Private names of Keras and TensorFlow that the package uses: all are listed here, and a missing one is told plainly.

`[tool.keras_mixer.tested]` in pyproject.toml says with which versions these tests have passed.
"""

import ast
import importlib.util
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
DOCUMENTED = ("_exit", "_replace")  # of os and of named tuples
OUTSIDE = ("keras.src", "tensorflow.python", "tensorflow.lite.python", "jax._src", "tyro._")


def optimizer():
    made = AdamW(1e-3, use_ema=True)
    made.build([keras.Variable([0.0])])
    return made


def model():
    made = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    made.compile("sgd", "mse")
    return made


def module(name):
    return lambda: importlib.import_module(name)


# What holds the name, its maker, the name, the file that uses it, and the only backend on which it is used.
USED = [
    ("Optimizer", lambda: keras.optimizers.Optimizer, "_clip_gradients", "training/optimizers.py", None),
    (
        "Optimizer",
        lambda: keras.optimizers.Optimizer,
        "_all_reduce_sum_gradients",
        "training/optimizers.py",
        "tensorflow",
    ),
    ("Optimizer", lambda: keras.optimizers.Optimizer, "_get_current_learning_rate", "training/optimizers.py", None),
    ("Optimizer", lambda: keras.optimizers.Optimizer, "_apply_weight_decay", "training/optimizers.py", None),
    ("Optimizer", optimizer, "_model_variables_moving_average", "training/optimizers.py", None),
    *(("Model", model, "_flatten_layers", file, None) for file in ("anatomy.py", "training/devices.py")),
    ("Model", model, "_layers", "composite.py", None),
    ("KerasTensor", lambda: keras.Input((1,)), "_keras_history", "anatomy.py", None),
    ("Operation", lambda: model().layers[0], "_inbound_nodes", "anatomy.py", None),
    ("KerasTensor", lambda: keras.Input((2,)), "_keras_history", "evaluation/accuracy.py", None),
    ("Model", model, "_loss_tracker", "training/training_model.py", "tensorflow"),
    ("Model", model, "_loss_tracker", "training/callbacks.py", None),
    ("Model", model, "_update_metrics_variables", "training/training_model.py", "jax"),
    (
        "tensorflow.lite.python",
        module("tensorflow.lite.python"),
        "schema_py_generated",
        "export/tflite_metadata.py",
        "tensorflow",
    ),
]
NAMES = [pytest.param(*used, id=f"{used[0]}.{used[2]}, {used[3]}") for used in USED]


def check_there(label, make, name, file):
    """Fails, in words for whoever changes a version, where a name is gone."""
    library = "tensorflow" if label.startswith("tensorflow") else "keras"
    try:
        there = hasattr(make(), name) or importlib.util.find_spec(f"{label}.{name}") is not None
    except ImportError:  # the module that holds it is gone, or is none that holds modules
        there = False
    if not there:
        pytest.fail(
            f"{library} {INSTALLED[library]} lacks {label}.{name}, which keras_mixer/{file} uses; tested with "
            f"{library} {TESTED[library]}.",
            pytrace=False,
        )


@pytest.mark.parametrize(("label", "make", "name", "file", "backend"), NAMES)
def test_a_private_name_is_there(label, make, name, file, backend):
    if backend not in (None, keras.backend.backend()):
        pytest.skip(f"used on {backend} only")
    check_there(label, make, name, file)


@pytest.mark.parametrize("name", ["_clip_gradients"])
def test_a_name_that_is_gone_is_told_plainly(name, monkeypatch):
    ((label, make, _, file, _),) = [used for used in USED if used[2] == name]
    holders = getattr(make(), "__mro__", [make()])
    (holder,) = [holder for holder in holders if name in vars(holder)]
    monkeypatch.delattr(holder, name)
    message = f"keras {keras.__version__} lacks {label}.{name}, which keras_mixer/{file} uses; tested with keras >=3"
    with pytest.raises(pytest.fail.Exception, match=re.escape(message)):
        check_there(label, make, name, file)


def test_a_module_that_is_gone_is_told_plainly():
    with pytest.raises(pytest.fail.Exception, match=r"lacks keras\.src\.gone\.ResNet, which keras_mixer/a\.py uses"):
        check_there("keras.src.gone", module("keras.src.gone"), "ResNet", "a.py")


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
    found = {
        (name, path.relative_to(package).as_posix()) for path in package.rglob("*.py") for name in private_names(path)
    }
    listed = {(name, file) for _, _, name, file, _ in USED}
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

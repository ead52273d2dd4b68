"""Promises about the code itself: its size and order, names, docstrings, the commands that README prints."""

import ast
import doctest
import functools
import inspect
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import keras_mixer
from keras_mixer.weights.published import PUBLISHED

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_mixer"
COMMAND = ROOT / "keras_mixer_command.py"
MODULES = sorted(PACKAGE.rglob("*.py"))

# The folders of the package, lowest first: each imports only from those before it, and from the recipe, which is plain
# data on the lowest floor of design.md: readers, exports and the command line check their values by its types.
ROOMS = ("weights", "data", "evaluation", "export", "serving", "training", "inspect", "cli")
BUDGETS = {  # the most lines and files of Python
    "keras_mixer": (8315, 70),
    "keras_mixer/*.py": (999, 11),
    "keras_mixer/layers.py": (176, 1),
    "keras_mixer/weights": (850, 9),
    "keras_mixer/data": (1450, 9),
    "keras_mixer/training": (1999, 12),
    "keras_mixer/evaluation": (450, 5),
    "keras_mixer/export": (1172, 9),
    "keras_mixer/inspect": (541, 7),
    "keras_mixer/cli": (722, 7),
    "experiments": (1300, 14),
    "benchmarks": (1999, 21),
    "tests": (8474, 78),
}
KERAS_ONLY = ("variants", "primitives", "layers", "models", "mixer_model", "anatomy", "features")
PUBLIC = {
    *("MixerS32", "MixerS16", "MixerB32", "MixerB16", "MixerL32", "MixerL16", "MixerH14", "Mixer"),
    *("MixerModel", "PatchEmbed", "MlpBlock", "MixerBlock", "VARIANTS", "decode_predictions"),
    *("feature_extractor", "load_weights", "save_official", "change_resolution"),
    *("fit", "RECIPES", "evaluate", "few_shot", "export_saved_model", "export_tflite"),
    *("export", "load", "preprocess_image"),
}


def text_of(*names):
    return ROOT.joinpath(*names).read_text(encoding="utf-8")


@functools.cache
def nodes(path):
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def imports(path):
    for node in nodes(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("room", BUDGETS)
def test_every_room_stays_within_its_budget(room):
    files = list(ROOT.glob(room) if room.endswith(".py") else ROOT.glob(f"{room}/**/*.py"))
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
    most_lines, most_files = BUDGETS[room]
    assert lines <= most_lines, f"{room} has {lines} lines"
    assert len(files) <= most_files, f"{room} has {len(files)} files"


def test_rooms_import_downwards_only():
    """Of the files next to the rooms, `models` knows the weights, and the entry points everything."""
    assert set(ROOMS) == {path.parent.name for path in MODULES} - {"keras_mixer"}
    for path in MODULES:
        names = {name for name in imports(path) if not f"{name}.".startswith("keras_mixer.training.recipe.")}
        found = {name.split(".")[1] for name in names if name.startswith("keras_mixer.")} & set(ROOMS)
        own = path.parent.name
        if path == PACKAGE / "training" / "recipe.py":
            assert not found, path
        elif own in ROOMS:
            assert found <= set(ROOMS[: ROOMS.index(own) + 1]), path
            if own in ("weights", "data") and path.stem != "convert":  # which builds a model for its weights
                assert "keras_mixer.models" not in imports(path), path
        elif path.stem not in ("__init__", "__main__"):
            assert found <= ({"weights"} if path.stem == "models" else set()), path


def test_model_code_knows_only_keras():
    usual = sys.stdlib_module_names | {"keras", "keras_mixer", "numpy"}
    for name in KERAS_ONLY:
        allowed = usual | ({"tensorflow"} if name == "primitives" else set())  # which imports it on TensorFlow alone
        assert {module.split(".")[0] for module in imports(PACKAGE / f"{name}.py")} <= allowed, name


def test_public_names_are_all_there_and_nothing_else():
    heavy = {"importlib", "TYPE_CHECKING", "annotations"}
    modules = {path.relative_to(PACKAGE).with_suffix("").parts[0] for path in MODULES}
    assert {name for name in dir(keras_mixer) if not name.startswith("_")} - heavy - (modules - PUBLIC) == PUBLIC
    for name in PUBLIC:
        assert getattr(keras_mixer, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = keras_mixer.no_such_name
    for_type_checkers = re.findall(r"^    from (\S+) import (\w+) as \w+$", text_of("keras_mixer", "__init__.py"), re.M)
    assert {(module, name) for name, module in keras_mixer._ON_FIRST_USE.items()} == set(for_type_checkers)


@pytest.mark.parametrize("name", sorted(PUBLIC - {"VARIANTS", "RECIPES"}))
def test_public_docstrings_name_every_argument_and_their_examples_run(name):
    thing = getattr(keras_mixer, name)
    text = inspect.getdoc(thing)
    if re.fullmatch(r"Mixer[SBLH]\d\d", name):
        assert "keras_mixer.Mixer" in text
    else:
        parameters = [parameter for parameter in inspect.signature(thing).parameters if parameter != "self"]
        assert re.findall(r"^    (?:\*\*)?(\w+): ", text.split("Args:")[1].split("\n\n")[0], re.M) == parameters
        assert "Returns:" in text or inspect.isclass(thing)
    names = {"keras_mixer": keras_mixer, "np": np, "model": None}
    for example in doctest.DocTestFinder(recurse=False).find(thing, name, globs=names):
        assert doctest.DocTestRunner().run(example).failed == 0


def test_what_is_imported_brings_in_nothing_heavy():
    """Nor does a command that needs none of it."""
    code = """
import contextlib, io, keras, os, sys
known, environment = set(sys.modules), dict(os.environ)
import keras_mixer
assert environment == os.environ
print(*set(sys.modules) - known)
from keras_mixer import cli; import keras_mixer.cli.export  # and so evaluate
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    cli.main(["variants"])
    cli.main(["predict", "--help"])
print(*set(sys.modules) - known)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    package, commands = ({".".join(name.split(".")[:2]) for name in line.split()} for line in out.splitlines())
    heavy = {"tensorflow_datasets", "keras_cv", "matplotlib"}
    assert not commands & heavy
    assert not package & (heavy | {"sklearn", "tyro", "tqdm", "PIL", "keras_mixer.cli"})


FORBIDDEN = {"pickle", "marshal", "shelve", "yaml", "eval", "exec", "os.system", "os.popen", "tempfile.mktemp"}
FORBIDDEN |= {"extractall", "shell", "enable_unsafe_deserialization", "urlopen", "urlretrieve", "requests"}


def test_no_data_is_run_and_no_shell_is_started():
    """SECURITY.md says so."""
    for path in [*MODULES, COMMAND]:
        for node in nodes(path):
            used = [ast.unparse(node.func)] if isinstance(node, ast.Call) else []
            used += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            used += [node.arg] if isinstance(node, ast.keyword) and ast.unparse(node.value) != "False" else []
            for name in map(str, used):
                assert not {name, name.split(".")[0], name.split(".")[-1]} & FORBIDDEN, f"{path}: {name}"
                assert name != "allow_pickle", path
                if name.endswith("saving.load_model"):
                    assert "safe_mode=True" in ast.unparse(node), path


def test_ci_runs_the_test_command_that_readme_prints_and_ends_where_it_fails():
    blocks = re.findall(r"```bash\n(.*?)```", text_of("README.md"), re.S)
    (command,) = [line for block in blocks for line in block.splitlines() if "pytest" in line]
    ci = text_of(".ci", "run")
    assert "\nset -euo pipefail\n" in ci
    assert f"\n(\n{command}\n)\n" in ci  # not in parentheses, a failure before the last && would not end it


def texts(path):
    """The texts of a Python file that a user may read, with `{}` for formatted values."""
    for node in nodes(path):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_tables_of_models_have_the_sizes_costs_and_weights_of_the_package():
    for name, variant in keras_mixer.VARIANTS.items():
        weights = ", ".join(f"`{one.name}`" for one in PUBLISHED if one.variant == name) or "-"
        row = f"| {name} | {variant.parameters():,} | {variant.macs() / 1e9:.3f} | {weights} |"
        assert row in text_of("README.md")
        sizes = " | ".join(map(str, vars(variant).values()))
        assert f"| {name} | {sizes} |" in text_of("docs", "reference", "models.md")


def test_version_is_the_same_everywhere():
    version = re.search(r'^version = "(.*)"', text_of("pyproject.toml"), re.M)[1]
    assert re.search(r"^version: (.*)$", text_of("CITATION.cff"), re.M)[1] == version == keras_mixer.__version__


def test_every_dependency_is_on_the_page_of_licenses():
    project = tomllib.loads(text_of("pyproject.toml"))["project"]
    page = re.sub("[-_.]+", "-", text_of("docs", "licenses.md").lower())
    needed = project["dependencies"] + [name for extra in project["optional-dependencies"].values() for name in extra]
    names = {re.split(r"[ \[<>=!;]", need)[0].lower().replace("_", "-") for need in needed}
    for name in names - {"keras-mixer", "tensorflow"}:  # tensorflow is the other form of tensorflow-cpu
        assert re.search(rf"(^|[ |]){name}[ ,.|]", page, re.M), name

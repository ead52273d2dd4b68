"""Promises about the code itself: floors, names, docstrings, the commands that README prints."""

import ast
import doctest
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import keras_mixer
from keras_mixer import cli
from keras_mixer.weights.published import PUBLISHED

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_mixer"
COMMAND = ROOT / "keras_mixer_command.py"

# A file imports only from floors below its own (or from its own folder).
FLOORS = [
    ["variants", "fields", "files", "fast_cpu", "cores", "composite", "imagenet_classes"],
    ["layers", "storage"],
    ["mixer_model"],
    ["anatomy"],
    ["weights", "data"],
    ["models"],
    ["weights/convert", "features"],
    ["evaluation", "export"],
    ["serving"],
    ["training"],
    ["inspect"],
    ["cli"],
    ["__init__", "__main__"],
]
PUBLIC = {
    *("MixerS32", "MixerS16", "MixerB32", "MixerB16", "MixerL32", "MixerL16", "MixerH14", "Mixer"),
    *(
        "MixerModel",
        "PatchEmbed",
        "MlpBlock",
        "MixerBlock",
        "VARIANTS",
        "feature_extractor",
        "load_weights",
        "save_official",
        "change_resolution",
        "decode_predictions",
    ),
    *("fit", "RECIPES", "evaluate", "few_shot", "export_saved_model", "export_tflite"),
    *("export", "load", "preprocess_image"),
}
MODEL = ("variants", "layers", "models")
MODEL_KEYWORDS = {
    "input_shape": (224, 224, 3),
    "include_preprocessing": True,
    "include_top": True,
    "pooling": None,
    "classes": 1000,
    "classifier_activation": "softmax",
    "weights": None,
    "dropout_rate": 0.0,
    "drop_path_rate": 0.0,
    "name": None,
}


def room(path):
    """The file or sub-package of the package that a path belongs to; a file with a floor of its own is one, too."""
    name = path.relative_to(PACKAGE).with_suffix("").as_posix()
    return name if name in ("weights/convert",) else name.split("/")[0]


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_file_has_a_floor():
    assert {room(path) for path in modules()} == {name for floor in FLOORS for name in floor}


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_import_only_from_floors_below(path):
    level = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    for name in imports(path):
        if name.startswith("keras_mixer.") and (target := name.split(".")[1]) in level and target != room(path):
            assert level[target] < level[room(path)], f"{path} imports {name}"


@pytest.mark.parametrize(
    "name",
    ["variants", "fast_cpu", "composite", "layers", "mixer_model", "anatomy", "models", "features"],
)
def test_model_code_knows_only_keras(name):
    outside = {name.split(".")[0] for name in imports(PACKAGE / f"{name}.py")}
    # fast_cpu.py compiles one function on TensorFlow, and imports it only then
    allowed = {"tensorflow"} if name == "fast_cpu" else set()
    usual = {"dataclasses", "functools", "inspect", "keras", "keras_mixer", "math", "numbers", "numpy"}
    usual |= {"collections", "operator"}
    assert outside <= usual | allowed


def test_files_have_honest_names():
    for path in modules():
        assert path.stem not in {"utils", "common", "helpers", "misc", "base"}, path


def test_the_model_is_read_in_an_evening():
    lines = {name: len((PACKAGE / f"{name}.py").read_text(encoding="utf-8").splitlines()) for name in MODEL}
    assert lines["layers"] <= 230
    assert sum(lines.values()) <= 600


def test_public_names_are_all_there_and_nothing_else():
    heavy = {"importlib", "TYPE_CHECKING", "annotations"}
    rooms = {room(path) for path in modules()}
    assert {name for name in dir(keras_mixer) if not name.startswith("_")} - heavy - (rooms - PUBLIC) == PUBLIC
    for name in PUBLIC:
        assert getattr(keras_mixer, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = keras_mixer.no_such_name


def test_lazy_names_are_declared_for_type_checkers_too():
    source = (PACKAGE / "__init__.py").read_text(encoding="utf-8")
    declared = set(re.findall(r"^    from (\S+) import (\w+) as \w+$", source, re.M))
    assert {(module, name) for name, module in keras_mixer._ON_FIRST_USE.items()} == declared


@pytest.mark.parametrize("name", sorted(PUBLIC - {"VARIANTS", "RECIPES"}))
def test_public_docstrings_name_every_argument(name):
    thing = getattr(keras_mixer, name)
    text = inspect.getdoc(thing)
    parameters = [parameter for parameter in inspect.signature(thing).parameters if parameter != "self"]
    if re.fullmatch(r"Mixer[SBLH]\d\d", name):
        assert "keras_mixer.Mixer" in text
        return
    documented = re.findall(r"^    (?:\*\*)?(\w+): ", text.split("Args:")[1].split("\n\n")[0], re.M)
    assert documented == parameters
    assert "Returns:" in text


@pytest.mark.parametrize("name", sorted(PUBLIC - {"VARIANTS", "RECIPES"}))
def test_examples_in_public_docstrings_run(name):
    examples = doctest.DocTestFinder(recurse=False).find(
        getattr(keras_mixer, name), name, globs={"keras_mixer": keras_mixer, "np": np, "model": None}
    )
    for example in examples:
        assert doctest.DocTestRunner().run(example).failed == 0


def test_builders_have_the_promised_signature():
    for name in ("S32", "S16", "B32", "B16", "L32", "L16", "H14"):
        signature = inspect.signature(getattr(keras_mixer, f"Mixer{name}"))
        assert {key: parameter.default for key, parameter in signature.parameters.items()} == MODEL_KEYWORDS
        assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in signature.parameters.values())
    signature = inspect.signature(keras_mixer.Mixer)
    assert list(signature.parameters)[:5] == [
        "patch_size",
        "num_blocks",
        "hidden_dim",
        "tokens_mlp_dim",
        "channels_mlp_dim",
    ]
    assert {key: signature.parameters[key].default for key in MODEL_KEYWORDS} == MODEL_KEYWORDS


def test_import_brings_in_nothing_heavy():
    code = """
import keras, os, sys
before, environment = set(sys.modules), dict(os.environ)
import keras_mixer
assert environment == os.environ
print(*set(sys.modules) - before)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    added = {name.split(".")[0] for name in out.split()}
    assert not added & {"tensorflow_datasets", "keras_cv", "matplotlib", "sklearn", "tyro", "tqdm", "PIL"}


FORBIDDEN = ("pickle", "marshal", "shelve", "yaml", "eval", "exec", "os.system", "os.popen", "tempfile.mktemp")
FORBIDDEN += ("extractall", "shell", "enable_unsafe_deserialization", "urlopen", "urlretrieve", "requests")


@pytest.mark.parametrize("path", [*modules(), COMMAND], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_data_is_run_and_no_shell_is_started(path):
    """SECURITY.md says so."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        used = [ast.unparse(node.func)] if isinstance(node, ast.Call) else []
        used += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        used += [node.arg] if isinstance(node, ast.keyword) and ast.unparse(node.value) != "False" else []
        for name in used:
            assert not {name, str(name).split(".")[0], str(name).split(".")[-1]} & set(FORBIDDEN), f"{path}: {name}"
            assert name != "allow_pickle", path
            if str(name).endswith("saving.load_model"):
                assert "safe_mode=True" in ast.unparse(node), path


def commands():
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    return [line for block in blocks for line in block.splitlines()]


def test_ci_runs_the_test_command_that_readme_prints():
    (command,) = [line for line in commands() if "pytest" in line]
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


def test_ci_ends_at_the_first_failing_test(tmp_path):
    def script(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        path.chmod(0o755)

    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    script(tmp_path / "bin" / "python3", "exit 0")
    for tool in ("pip", "ruff", "mypy", "mkdocs"):
        script(tmp_path / ".venv" / "bin" / tool, "exit 0")
    script(tmp_path / ".venv" / "bin" / "pytest", "echo tested >> tested; exit 1")
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    assert subprocess.run([tmp_path / ".ci" / "run"], env=environment, check=False).returncode != 0
    assert (tmp_path / "tested").read_text() == "tested\n"


TRANSLATED = {  # phrases that read like a translation, and what to write instead
    r"(?<!\bthere )\bis no (?!longer\b)": "is not a",
    r"\bunlike \{": "Expected ..., got ...",
    r"\bat hand\b": "available",
    r"\bby (itself|themselves)\b": "automatically",
    r"\b(go|goes) on\b": "resume or continue",
    r"\bwhole or not at all\b": "atomically",
    r"\bto be had\b": "available",
}
PROSE = [
    *modules(),
    COMMAND,
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
]


def texts(path):
    """The texts of a file that a user may read, with `{}` for formatted values."""
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        for node in ast.walk(ast.parse(content)):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    elif path.suffix == ".ipynb":
        yield from ("".join(cell["source"]) for cell in json.loads(content)["cells"])
    else:
        yield content


@pytest.mark.parametrize("path", PROSE, ids=lambda path: str(path.relative_to(ROOT)))
def test_texts_are_in_plain_english(path):
    found = [
        f"{text[max(0, match.start() - 40) : match.end() + 20]!r}: write {instead!r}"
        for text in {" ".join(text.split()) for text in texts(path)}
        for pattern, instead in TRANSLATED.items()
        for match in re.finditer(pattern, text, re.I)
    ]
    assert not found, "\n".join(found)


def test_tables_of_models_have_the_sizes_costs_and_weights_of_the_package():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    reference = (ROOT / "docs" / "reference" / "models.md").read_text(encoding="utf-8")
    for name, variant in keras_mixer.VARIANTS.items():
        weights = ", ".join(f"`{one.name}`" for one in PUBLISHED if one.variant == name) or "-"
        assert f"| {name} | {variant.parameters():,} | {variant.macs() / 1e9:.3f} | {weights} |" in readme
        assert f"| {name} | {' | '.join(map(str, vars(variant).values()))} |" in reference


def test_version_is_the_same_everywhere(capsys):
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.M)[1]
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.M)[1] == version
    assert keras_mixer.__version__ == version
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"keras-mixer {version}\n"


def test_top_level_is_what_was_asked_for():
    for name in ("setup.cfg", "pyproject.toml", "keras_mixer", "notebooks", "tests", "saved_models", "README.md"):
        assert (ROOT / name).exists(), name


def test_every_dependency_is_on_the_page_of_licenses():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = re.sub("[-_.]+", "-", (ROOT / "docs" / "licenses.md").read_text(encoding="utf-8").lower())
    needed = project["dependencies"] + [name for extra in project["optional-dependencies"].values() for name in extra]
    names = {re.split(r"[ \[<>=!;]", need)[0].lower().replace("_", "-") for need in needed}
    for name in names - {"keras-mixer", "tensorflow"}:  # tensorflow is the other form of tensorflow-cpu
        assert re.search(rf"(^|[ |]){name}[ ,.|]", page, re.M), name

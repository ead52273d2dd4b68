"""The reference lists every name, command, option and recipe; troubleshooting quotes existing messages."""

import ast
import base64
import importlib.util
import json
import re

import pytest
from pages import GENERATED, ROOT
from sklearn.datasets import load_digits
from test_repository import PUBLIC

import keras_mixer
from keras_mixer import cli
from keras_mixer.training.recipe import Recipe

REFERENCE, CARDS = ROOT / "docs" / "reference", ROOT / "saved_models"
MESSAGES = re.compile(r"^(?:- |  )`(.+)`<br>$", re.M)
OF_OTHERS = {  # messages of Python, Keras, TensorFlow and its server
    "No module named 'tensorflow'",
    "Could not locate class 'MixerModel'...",
    "Detected incompatible Protobuf Gencode/Runtime versions when loading tensorflow_metadata/...",
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "oneDNN custom operations are on. You may see slightly different numerical results...",
    "This TensorFlow binary is optimized to use available CPU instructions...",
    "Servable not found for request: ...",
    "UserWarning: ... was passed, but will be ignored since the data ...",
}


@pytest.fixture(scope="module")
def generated():
    """The MkDocs hook that generates tables."""
    specification = importlib.util.spec_from_file_location("generated", ROOT / "docs" / "generated.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_every_public_name_is_in_the_reference():
    text = "".join(page.read_text(encoding="utf-8") for page in REFERENCE.glob("*.md"))
    documented = {name.rsplit(".", 1)[1] for name in GENERATED.findall(text)}
    by_hand = {name for name in PUBLIC if f"`{name}`" in text or f"keras_mixer.{name}" in text}
    assert documented | by_hand >= PUBLIC


def test_the_page_of_commands_has_every_command_with_a_row_for_every_option(generated):
    text = (REFERENCE / "command-line.md").read_text(encoding="utf-8")
    assert generated.OPTIONS.findall(text) == re.findall(r"^## (.+)$", text, re.M) == list(cli.COMMANDS)
    assert "<!--" not in generated.on_page_markdown(text)
    for name, (_, description) in cli.COMMANDS.items():
        assert f"## {name}\n\n{description}\n" in text
        printed = set(re.findall(r"(?:^|[ │])\s*(--[a-z][\w-]*)(?= |$)", generated.help_of([name]), re.M)) - {"--help"}
        rows = generated.options([name])
        assert {option for shown, _, _ in rows for option in re.findall(r"--[a-z][\w-]*", shown)} >= printed
        assert all(meaning for _, _, meaning in rows), rows
        assert all(shown.startswith("--") or shown.isupper() or " " in shown for shown, _, _ in rows)


def test_the_page_of_experiments_has_every_script():
    text = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8")
    scripts = {path.stem for path in (ROOT / "experiments").glob("*.py") if "tyro.cli(main" in path.read_text()}
    assert set(re.findall(r"^python -m experiments\.(\w+)", text, re.M)) == scripts


def test_the_table_of_recipes_has_a_row_for_each(generated):
    rows = generated.table_of_recipes().splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(keras_mixer.RECIPES)
    assert set(generated.SHOWN) <= set(Recipe.__dataclass_fields__)
    assert "| tiny/4 | digits | 16 | 70 | - | 64 | adamw | 0.002 |" in rows[0]


def texts():
    """Every string of the package, with formatted values as a zero byte."""
    for path in (ROOT / "keras_mixer").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_messages_in_troubleshooting_are_those_of_the_package():
    quoted = MESSAGES.findall((ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"))
    assert len(quoted) == len(set(quoted)) > 50
    known = set(texts())
    for message in set(quoted) - OF_OTHERS:
        parts = [re.escape(part) for part in message.removesuffix("...").split("...")]
        pattern = re.compile("(?:.*\0.*)".join(parts), re.S)
        assert any(pattern.match(text) for text in known), f"Not a message of the package: {message}"


def test_the_card_of_the_digits_model_counts_right():
    card = (CARDS / "mixer_digits.md").read_text(encoding="utf-8")
    assert f"The {len(load_digits().target):,} digits" in card
    parameters = keras_mixer.RECIPES["digits"].architecture().parameters((16, 16, 3), classes=10)
    assert f"{parameters:,} parameters" in card
    stated = re.search(r"(\d+) of the (\d+) test images", (CARDS / "README.md").read_text(encoding="utf-8"))
    assert f"{stated[1]} of {stated[2]} (" in card


def test_a_notebook_becomes_a_page_with_its_outputs_and_links(generated, tmp_path):
    output = {"image/png": base64.b64encode(b"pixels").decode()}
    cells = [
        {"cell_type": "markdown", "source": ["See [the next](01_next.ipynb)\n", "and [TPU](../docs/guides/tpu.md)."]},
        {"cell_type": "code", "source": ["print(1)"], "outputs": [{"text": ["1\n"]}, {"data": output}]},
    ]
    (tmp_path / "00_first.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    page, images = generated.page_of(tmp_path / "00_first.ipynb")
    assert "[the next](01_next.md)" in page
    assert "[TPU](../guides/tpu.md)" in page
    assert "~~~python\nprint(1)\n~~~\n\n~~~text\n1\n~~~\n\n![Output of the cell above](00_first_0.png)" in page
    assert images == {"00_first_0.png": b"pixels"}

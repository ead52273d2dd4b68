"""The reference lists every name, command, option and recipe; troubleshooting quotes existing messages."""

import importlib.util
import re

import pytest
from pages import GENERATED, ROOT
from test_repository import MODULES, PUBLIC, texts

import keras_mixer
from keras_mixer import cli

REFERENCE = ROOT / "docs" / "reference"
MESSAGES = re.compile(r"^(?:- |  )`(.+)`<br>$", re.M)
OF_OTHERS = r"No module|Could not locate|Detected inc|WARNING: All log|oneDNN|This TensorFlow|Servable|UserWarning"
OF_OTHERS += r"|The (least|test_size)"


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
    assert "| tiny/4 | digits | 16 | 70 | - | 64 | adamw | 0.002 |" in rows[0]


def test_messages_in_troubleshooting_are_those_of_the_package():
    quoted = MESSAGES.findall((ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8"))
    assert len(quoted) == len(set(quoted)) > 50
    known = {text for path in MODULES for text in texts(path)}
    for message in [message for message in quoted if not re.match(OF_OTHERS, message)]:
        parts = [re.escape(part) for part in message.removesuffix("...").split("...")]
        pattern = re.compile(r"(?:.*\{\}.*)".join(parts), re.S)
        assert any(pattern.match(text) for text in known), f"Not a message of the package: {message}"


def test_a_notebook_becomes_a_page_with_its_outputs_and_links(generated):
    page, images = generated.page_of(ROOT / "notebooks" / "00_quickstart.ipynb")
    assert re.findall(r"!\[Output of the cell above\]\((.+)\)", page) == list(images)
    assert images["00_quickstart_0.png"].startswith(b"\x89PNG")
    assert "~~~python\nimport" in page
    assert re.search(r"~~~text\n(?s:.*?)\n\S+% accuracy on 360 test images\n~~~", page)
    assert "](01_first_look.md)" in page
    assert not re.search(r"\.ipynb\)|\]\(\.\./docs/", page)

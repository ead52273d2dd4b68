"""MkDocs hook that generates the tables of options and recipes from the package, and a page for each notebook.

The comments `<!-- options of COMMAND -->` and `<!-- recipes -->` in a page are replaced by tables. Notebooks are shown
with the outputs that are stored in them.
"""

import base64
import contextlib
import dataclasses
import io
import json
import os
import re
from pathlib import Path
from unittest import mock

from keras_mixer import cli
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.recipes import RECIPES

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
WIDE = "1000"  # columns, so that the help of an option is not wrapped
OPTIONS, TABLE_OF_RECIPES = re.compile(r"<!-- options of ([\w -]+) -->"), "<!-- recipes -->"
NAMED = re.compile(r"--?[a-z]|[A-Z]+(\.\.\.)?( [A-Z]+(\.\.\.)?)*$")  # an option, or the name of a positional argument
SHOWN = {  # fields of a recipe and their column headings
    "variant": "model",
    "data": "data",
    "image_size": "px",
    "epochs": "epochs",
    "steps": "steps",
    "global_batch_size": "batch",
    "optimizer": "optimizer",
    "learning_rate": "peak rate",
    "schedule": "schedule",
    "warmup_steps": "warm-up",
    "weight_decay": "decay",
    "loss": "loss",
    "drop_path_rate": "stochastic depth",
    "randaugment_level": "RandAugment",
    "mixup_alpha": "mixup p",
    "precision": "precision",
}


def on_page_markdown(markdown, **_):
    """Called by MkDocs with the text of every page."""
    markdown = OPTIONS.sub(lambda match: "\n" + table_of_options(match[1].split()), markdown)
    return markdown.replace(TABLE_OF_RECIPES, table_of_recipes())


def on_files(files, config, **_):
    """Called by MkDocs with all files of the site; adds `notebooks/NAME.md` and its images."""
    from mkdocs.structure.files import File  # only here: tests call the other functions without MkDocs

    for notebook in sorted(NOTEBOOKS.glob("*.ipynb")):
        page, images = page_of(notebook)
        files.append(File.generated(config, f"notebooks/{notebook.stem}.md", content=page))
        for name, image in images.items():
            files.append(File.generated(config, f"notebooks/{name}", content=image))
    return files


def page_of(notebook) -> tuple[str, dict[str, bytes]]:
    """A notebook with its outputs as Markdown, and its images by their names."""
    parts, images = [], {}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.md)", source).replace("](../docs/", "](../"))
            continue
        parts.append(f"~~~python\n{source}\n~~~")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{notebook.stem}_{len(images)}.png"
                images[name] = base64.b64decode(data["image/png"])
                parts.append(f"![Output of the cell above]({name})")
            elif text := "".join(output.get("text", data.get("text/plain", ""))).rstrip():
                parts.append(f"~~~text\n{text}\n~~~")
    return "\n\n".join(parts), images


def help_of(command) -> str:
    """What `keras-mixer COMMAND --help` prints on a very wide terminal."""
    printed = io.StringIO()
    wide = mock.patch.dict(os.environ, {"COLUMNS": WIDE})
    with wide, contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        cli.main([*command, "--help"])
    return printed.getvalue()


def options(command) -> list[tuple[str, str, str]]:
    """`(option with its value, default, meaning)` of a command, parsed from its help."""
    found: list[list[str]] = []
    for line in help_of(command).splitlines():
        text = line.rstrip()
        beginning = re.fullmatch(r"  (\S.*?)(?:  +(\S.*))?", text)
        if beginning and NAMED.match(beginning[1]) and not set(text) <= {" ", "-"}:
            found.append([beginning[1], beginning[2] or ""])
        elif found and re.match(r" {4,}\S", text):
            found[-1][1] += " " + text.strip()
    rows = []
    for name, meaning in ((name, meaning.strip()) for name, meaning in found if name != "-h, --help"):
        default = re.search(r"\s*\((?:default|required)(?:: (.*))?\)$", meaning)
        value = "required" if "(required)" in meaning else (default[1] or "") if default else ""
        rows.append((name.replace("{None}|", ""), value.strip(), meaning[: default.start()] if default else meaning))
    return rows


def table_of_options(command) -> str:
    """The options of a command as a Markdown table."""
    return _table(
        ("option", "default", "meaning"),
        [(_code(name), _code(default), _text(meaning)) for name, default, meaning in options(command)],
    )


def table_of_recipes() -> str:
    """The main fields of all recipes as a Markdown table."""
    rows = []
    for recipe in RECIPES.values():
        fields = dataclasses.asdict(recipe)
        if recipe.steps is not None:
            fields["epochs"] = None  # steps override epochs
        fields["randaugment_level"] = _randaugment(recipe)
        rows.append((_code(recipe.name), *(_value(fields[name]) for name in SHOWN)))
    return _table(("recipe", *SHOWN.values()), rows)


def _randaugment(recipe: Recipe):
    return f"{recipe.randaugment_num_ops} x level {recipe.randaugment_level:g}" if recipe.randaugment_num_ops else None


def _value(value):
    if value is None or value == 0:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def _table(header, rows):
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _code(text):
    return f"`{text}`".replace("|", "\\|") if text else ""


def _text(text):
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")

"""docs/api.txt is what the code is. A failing test prints the words to put there, and to think about first."""

import dataclasses
import inspect
import re
import unittest.mock
from pathlib import Path

import pytest
import tyro
from test_repository import PUBLIC

import keras_mixer
from keras_mixer import cli
from keras_mixer.training.recipe import EVALUATION_CROPS, Recipe

DOCS = Path(__file__).parents[1] / "docs"
LISTING = (DOCS / "api.txt").read_text(encoding="utf-8")


def block(title):
    """The lines below a heading."""
    return re.search(rf"^## {title}\n\n(.*?)(?=\n## |\Z)", LISTING, re.M | re.S)[1]


def assert_listed(title, lines):
    assert block(title).split() == "\n".join(lines).split()  # wherever a line ends


def parameters(thing):
    """`a, b=1, *, c=None`, without annotations."""
    signature = inspect.signature(thing)
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values() if p.name != "self"]
    text = str(signature.replace(parameters=bare, return_annotation=inspect.Signature.empty))
    return text.replace(repr(print), "print")


def test_python_names_signatures_and_defaults():
    things = {name: getattr(keras_mixer, name) for name in sorted(PUBLIC)}
    assert_listed("Python", [name + (parameters(thing) if callable(thing) else "") for name, thing in things.items()])


def asked_for(command, monkeypatch):
    """What a command parses: a function or a dataclass."""
    monkeypatch.setattr(tyro, "cli", unittest.mock.Mock(side_effect=SystemExit))
    name, *rest = command.split()
    with pytest.raises(SystemExit):
        cli.run(name, rest)
    return tyro.cli.call_args.args[0]


def options_of(what):
    """`MODEL`, `--output (required)`, `--top-k 5`, `--data` where nothing is the default, `--dry-run` for a switch."""
    for name, parameter in inspect.signature(what).parameters.items():
        said = {}
        for hint in getattr(parameter.annotation, "__metadata__", ()):
            said |= {key: getattr(hint, key) for key in ("metavar", "name") if getattr(hint, key, None)}
        option = f"--{said.get('name', name).replace('_', '-')}"
        if "Positional" in str(parameter.annotation):
            yield said["metavar"]
        elif parameter.annotation is Recipe:
            yield "[RECIPE] and its fields as options"
        elif parameter.default is inspect.Parameter.empty:
            yield f"{option} (required)"
        elif dataclasses.is_dataclass(parameter.default):
            values = dataclasses.asdict(parameter.default)
            yield from (with_default(f"--{key.replace('_', '-')}", value) for key, value in values.items())
        else:
            yield with_default(option, parameter.default)


def with_default(option, value):
    if value is None or value is False or value == ():
        return option
    return f"{option} {' '.join(map(str, value)) if isinstance(value, tuple) else value}"


def test_commands_options_and_defaults(monkeypatch):
    commands = {name: options_of(asked_for(name, monkeypatch)) for name in sorted(cli.COMMANDS)}
    assert_listed("Command line", [f"{name}  {'  '.join(options)}" for name, options in commands.items()])


def test_recipes_and_their_fields():
    fields = {field.name: field.default for field in dataclasses.fields(Recipe)}
    listed = [name if value is dataclasses.MISSING else f"{name}={value!r}" for name, value in fields.items()]
    lists = {"recipes": keras_mixer.RECIPES, "fields": listed, "evaluation crops": EVALUATION_CROPS}
    assert_listed("Recipes", [f"{title}: {', '.join(names)}" for title, names in lists.items()])

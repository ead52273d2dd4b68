"""Every switch of the command line has two spellings, --name and --no-name, whatever its default is."""

import dataclasses
import re

import pytest

from keras_mixer import cli
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.recipes import RECIPES

FIELDS = [field.name for field in dataclasses.fields(Recipe) if isinstance(field.default, bool)]
COMMANDS = {  # the models do not exist: what is complained about is not the switch
    "train smoke --job-addresses nowhere": ("skip-corrupt", "dry-run"),
    "sweep smoke --learning-rates -1": ("skip-final", "skip-corrupt", "dry-run"),
    "evaluate no_run": ("skip-corrupt", "include-new", "json"),
    "fewshot no_run digits": ("skip-corrupt",),
    "predict no_run image.png": ("json",),
}


def test_recipes_have_switches():
    assert {"flip", "rematerialize"} <= set(FIELDS)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("wanted", [True, False])
def test_switches_of_recipes_are_spelled_alike(recipe, wanted, capsys):
    switches = [f"--{'' if wanted else 'no-'}{name.replace('_', '-')}" for name in FIELDS]
    assert cli.main(["train", recipe, "--devices", "cpu", *switches, "--dry-run"]) == 0
    plan = capsys.readouterr().out
    for name in FIELDS:
        assert re.search(rf"^{name} +{wanted}$", plan, re.M), name


@pytest.mark.parametrize("recipe", RECIPES)
def test_sweep_takes_the_same_switches(recipe, capsys):
    for start in ("--", "--no-"):
        switches = [start + name.replace("_", "-") for name in FIELDS]
        assert cli.main(["sweep", recipe, *switches, "--learning-rates", "-1"]) == 2
        assert capsys.readouterr().err.startswith("error: learning_rates must be ")  # and no word about a switch


@pytest.mark.parametrize("command", COMMANDS)
def test_switches_of_commands_are_spelled_alike(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in COMMANDS[command]:
        for start in ("--", "--no-"):
            assert cli.main([*command.split(), start + name]) == 2  # and not an exit of the parser
            assert "nrecogni" not in capsys.readouterr().err

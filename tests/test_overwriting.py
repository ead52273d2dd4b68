"""docs/troubleshooting.md: a file that the user names is not overwritten, and that is said before any work."""

import pytest

from keras_mixer import cli

# The models do not exist: a command that works first would complain about them.
COMMANDS = {
    "benchmark": "benchmark --output there.json",
    "convert": "convert no_model.npz there.keras",
    "export": "export no_run --format tflite --output there.tflite",
    "export of a version": "export no_run --output . --version 7",
    "features": "features no_run digits --output there.npz",
    "fewshot": "fewshot no_run digits --output there.json",
    "imagenet": "imagenet no_run --output there.json",
    "plot data-size": "plot data-size --output there.png --workdir runs",
    "plot linear-cost": "plot linear-cost --output there.png",
    "plot linear-cost, numbers": "plot linear-cost --output numbers.png",
    "plot pareto": "plot pareto --output there.png",
    "plot permutation": "plot permutation --output there.png",
    "plot stem": "plot stem no_run --output there.png",
    "plot throughput": "plot throughput no_run --output there.png",
    "plot throughput, numbers": "plot throughput no_run --output numbers.png",
    "plot tradeoff": "plot tradeoff no_run --output there.png",
    "plot untied": "plot untied --output there.png",
    "plot weights": "plot weights no_run --output there.png",
    "report": "report no_run --output there.html",
    "saliency": "saliency no_run image.png --output there.png",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_the_user_names_is_refused_before_any_work(name, tmp_path, monkeypatch, capsys):
    names = [f"there.{ending}" for ending in ("html", "json", "keras", "npz", "png", "tflite")] + ["numbers.json", "7"]
    for file in names:
        (tmp_path / file).write_text("precious", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert cli.main(COMMANDS[name].split()) == 2
    assert "exists already and is not overwritten" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    assert all((tmp_path / file).read_text(encoding="utf-8") == "precious" for file in names)

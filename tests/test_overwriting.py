"""docs/troubleshooting.md: a file that the user names is not overwritten, and that is said before any work.

Nor is an address such as gs://bucket/file taken for a path: `pathlib` would make a folder named "gs:".
"""

from pathlib import Path

import numpy as np
import pytest

import keras_mixer
from keras_mixer import cli

COMMANDS = {  # the models do not exist: a command that works first would complain about them
    "convert": "convert no_model.npz there.keras",
    "export": "export no_run --format tflite --output there.tflite",
    "export of a version": "export no_run --output . --version 7",
    "features": "features no_run digits --output there.npz",
    "fewshot": "fewshot no_run digits --output there.json",
    "imagenet": "imagenet no_run --output there.json",
    "report": "report no_run --output there.html",
    "saliency": "saliency no_run image.png --output there.png",
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_refuse_a_file_that_is_there_and_an_address_before_any_work(name, here, capsys):
    command = COMMANDS[name]
    for address in ("gs://bucket/", "hf://me/"):
        words = command.replace("there.", f"{address}there.").replace("--output .", f"--output {address}")
        assert cli.main(words.split()) == 2
        assert "a path on this machine" in capsys.readouterr().err
    assert not list(here.iterdir())
    names = {f"there.{ending}" for ending in ("html", "json", "keras", "npz", "png", "tflite")} | {"7"}
    for file in names:
        (here / file).write_text("precious", encoding="utf-8")
    assert cli.main(command.split()) == 2
    assert "exists already and is not overwritten" in capsys.readouterr().err
    assert {path.name: path.read_text(encoding="utf-8") for path in here.iterdir()} == dict.fromkeys(names, "precious")


@pytest.mark.parametrize("kind", [str, Path])
def test_no_function_takes_an_address_for_a_path(kind, tiny_mixer, here):
    model = tiny_mixer(num_blocks=1)
    for address in ("gs://bucket/", "hf://me/", "https://example.org/", "FILE:///", "simplecache::gs://bucket/"):
        with pytest.raises(ValueError, match=r"there\.tflite is not a path on this machine\. Write to one, then copy"):
            keras_mixer.export_tflite(model, kind(f"{address}there.tflite"))
        with pytest.raises(ValueError, match=r"there\.npz is not a path on this machine"):
            keras_mixer.save_official(model, kind(f"{address}there.npz"))
        with pytest.raises(ValueError, match="models is not a path on this machine"):
            keras_mixer.export_saved_model(model, kind(f"{address}models"))
    with pytest.raises(ValueError, match="hf://me/run is not a path on this machine"):
        keras_mixer.fit("digits", workdir=kind("hf://me/run"))
    assert not list(here.iterdir())


def test_a_path_with_a_colon_is_a_path(tiny_mixer, here):
    model = tiny_mixer(num_blocks=1)
    for path in ("C:/there.npz", "C:\\there.npz", "12:30.npz", here / "gs:" / "again.npz"):
        with np.load(keras_mixer.save_official(model, path)) as arrays:
            assert len(arrays.files) == len(model.weights)

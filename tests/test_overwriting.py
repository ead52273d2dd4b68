"""docs/troubleshooting.md: a file that the user names is not overwritten, and that is said before any work.

Nor is an address such as gs://bucket/file taken for a path: `pathlib` would make a folder named "gs:".
"""

import re
from pathlib import Path

import numpy as np
import pytest

import keras_mixer
from keras_mixer import cli


@pytest.mark.parametrize(
    "command",
    [  # the models do not exist: a command that works first would complain about them
        "convert no_model.npz there.keras",
        "export no_run --format tflite --output there.tflite",
        "export no_run --output . --version 7",
        "features no_run digits --output there.npz",
        "fewshot no_run digits --output there.json",
        "imagenet no_run --output there.json",
        "report no_run --output there.html",
        "saliency no_run image.png --output there.png",
    ],
)
def test_commands_refuse_a_file_that_is_there_and_an_address_before_any_work(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    address = command.replace("there.", "gs://bucket/there.").replace("--output .", "--output gs://bucket/")
    assert cli.main(address.split()) == 2
    assert "a path on this machine" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    there = tmp_path / re.search(r"there\.\w+|7", command)[0]
    there.write_text("precious")
    assert cli.main(command.split()) == 2
    assert "exists already and is not overwritten" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [there]
    assert there.read_text() == "precious"


def test_no_function_takes_an_address_for_a_path(tiny_mixer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_mixer(num_blocks=1)
    for address in (Path("gs://bucket/there.npz"), "hf://me/there.npz", "FILE:///there.npz"):
        with pytest.raises(ValueError, match=r"there\.npz is not a path on this machine\. Write to one, then copy"):
            keras_mixer.save_official(model, address)
    with pytest.raises(ValueError, match=r"there\.tflite is not a path on this machine"):
        keras_mixer.export_tflite(model, "simplecache::gs://bucket/there.tflite")
    with pytest.raises(ValueError, match="models/1 is not a path on this machine"):
        keras_mixer.export_saved_model(model, "https://example.org/models")
    with pytest.raises(ValueError, match="hf://me/run is not a path on this machine"):
        keras_mixer.fit("digits", workdir=Path("hf://me/run"))
    assert not list(tmp_path.iterdir())
    for path in ("C:/there.npz", "C:\\there.npz", "12:30.npz", tmp_path / "gs:" / "again.npz"):  # a colon is none
        with np.load(keras_mixer.save_official(model, path)) as arrays:
            assert len(arrays.files) == len(model.weights)

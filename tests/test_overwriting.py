"""docs/troubleshooting.md: a file that the user names is not overwritten, and that is said before any work.

Nor is an address such as gs://bucket/file taken for a path: `pathlib` would make a folder named "gs:".
"""

from pathlib import Path

import numpy as np
import pytest

import keras_mixer
from keras_mixer import cli

# The models do not exist: a command that works first would complain about them.
COMMANDS = {
    "convert": "convert no_model.npz there.keras",
    "export": "export no_run --format tflite --output there.tflite",
    "export of a version": "export no_run --output . --version 7",
    "features": "features no_run digits --output there.npz",
    "fewshot": "fewshot no_run digits --output there.json",
    "imagenet": "imagenet no_run --output there.json",
    "report": "report no_run --output there.html",
    "saliency": "saliency no_run image.png --output there.png",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_the_user_names_is_refused_before_any_work(name, tmp_path, monkeypatch, capsys):
    names = [f"there.{ending}" for ending in ("html", "json", "keras", "npz", "png", "tflite")] + ["7"]
    for file in names:
        (tmp_path / file).write_text("precious", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert cli.main(COMMANDS[name].split()) == 2
    assert "exists already and is not overwritten" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == set(names)
    assert all((tmp_path / file).read_text(encoding="utf-8") == "precious" for file in names)


ADDRESSES = (
    "gs://bucket/",
    "s3://bucket/",
    "hf://me/",
    "https://example.org/",
    "FILE:///",
    "simplecache::gs://bucket/",
)


@pytest.mark.parametrize("address", ["gs://bucket/", "hf://me/"])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_takes_an_address_for_a_path(name, address, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = COMMANDS[name].replace("there.", f"{address}there.").replace("--output .", f"--output {address}")
    assert cli.main(command.split()) == 2
    assert "a path on this machine" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("address", ADDRESSES)
def test_no_function_takes_an_address_for_a_path(address, kind, tiny_mixer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_mixer(num_blocks=1)
    with pytest.raises(ValueError, match=r"there\.tflite is not a path on this machine\. Write to one, then copy"):
        keras_mixer.export_tflite(model, kind(f"{address}there.tflite"))
    with pytest.raises(ValueError, match=r"there\.npz is not a path on this machine"):
        keras_mixer.save_official(model, kind(f"{address}there.npz"))
    with pytest.raises(ValueError, match="models is not a path on this machine"):
        keras_mixer.export_saved_model(model, kind(f"{address}models"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("workdir", ["hf://me/run", Path("hf://me/run"), "https://example.org/run"])
def test_a_run_is_not_written_to_an_address_that_takes_no_files(workdir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"(hf://me|https://example.org)/run is not a path on this machine"):
        keras_mixer.fit("digits", workdir=workdir)
    assert not list(tmp_path.iterdir())


def test_a_path_with_a_colon_is_a_path(tiny_mixer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_mixer(num_blocks=1)
    for path in ("C:/there.npz", "C:\\there.npz", "12:30.npz", tmp_path / "gs:" / "again.npz"):
        with np.load(keras_mixer.save_official(model, path)) as arrays:
            assert len(arrays.files) == len(model.weights)

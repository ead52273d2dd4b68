"""The model card: its metadata parse, its figures are those of the run, and nothing is empty."""

import json
import shutil

import numpy as np
import pytest
import yaml
from small_runs import SMALL

import keras_mixer
from keras_mixer import cli


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), np.uint8)
    data = (images, np.arange(24) % 3)
    options = SMALL | {"epochs": 1, "global_batch_size": 8, "warmup_steps": 1, "devices": "cpu"}
    options |= {"train": data, "test": data, "class_names": ("cat", "dog", "a|b"), "log": lambda line: None}
    folder = tmp_path_factory.mktemp("runs") / "pets"
    keras_mixer.fit("digits", workdir=folder, **options)
    return folder


def read(path):
    """The metadata and the text of a card."""
    start, metadata, text = path.read_text(encoding="utf-8").split("---\n", 2)
    assert start == ""
    return yaml.safe_load(metadata), text


def test_the_card_has_the_figures_of_the_run(run, capsys, monkeypatch):
    assert cli.main(["card", str(run)]) == 0
    assert "Add a line such as license" in capsys.readouterr().out
    metadata, text = read(run / "README.md")
    assert metadata["library_name"] == "keras"
    assert metadata["pipeline_tag"] == "image-classification"
    assert "mlp-mixer" in metadata["tags"]
    assert not metadata.keys() & {"license", "datasets", "base_model"}  # the user's choice; neither is on the Hub
    results = json.loads((run / "results.json").read_text())
    (entry,) = metadata["model-index"]
    assert entry["name"] == "pets"
    (result,) = entry["results"]
    assert result["dataset"] == {"type": "own-data", "name": "own data", "split": "test"}
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    expected = {"Top-1 accuracy": round(results["accuracy"], 4), "Loss": round(results["loss"], 4)}
    assert values == expected  # 3 classes: no top 5
    assert len(str(results["loss"])) > 8  # which has all its digits in results.json
    assert f"| Top-1 accuracy | {results['accuracy']:.2%} |" in text
    assert "On 24 test images of own data" in text
    assert "Classes: `cat`, `dog`, `a|b`." in text
    assert "## Exports" not in text
    monkeypatch.chdir(run)
    exec(text.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out.splitlines()[-1] in ("cat", "dog", "a|b")
    assert cli.main(["card", str(run)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_exports_that_were_verified_are_listed(run, tmp_path):
    parity = {"runtime": "LiteRT 2", "images": 24, "agreement": 1.0, "max_difference": 2.5e-7, "bytes": 1_250_000}
    parity |= {"export_accuracy": 0.5}
    (run / "export").mkdir()
    for name, passed in {"model.tflite": True, "model.tflite.failed": False}.items():
        (run / "export" / f"{name}.parity.json").write_text(json.dumps(parity | {"passed": passed}))
    assert cli.main(["card", str(run), "--output", str(tmp_path / "card.md")]) == 0
    _, text = read(tmp_path / "card.md")
    assert "| `export/model.tflite` | 1.25 MB | LiteRT 2 | 24 | 100.00% | 2.5e-07 | 50.00% |" in text
    assert "failed" not in text


def test_public_data_and_weights_are_named_and_folders_of_this_machine_are_not(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    results = json.loads((copy / "results.json").read_text()) | {"top5": 0.75, "loss": float("nan"), "part": "held-out"}
    (copy / "results.json").write_text(json.dumps(results | {"start_accuracy": 0.25}))

    def card(name, **changes):
        (copy / "config.json").write_text(json.dumps(config | changes))
        assert cli.main(["card", str(copy), "--output", str(tmp_path / name)]) == 0
        return read(tmp_path / name)

    metadata, text = card("public.md", data="cifar10", weights="hf://someone/mixer@main/model.keras", holdout=0.1)
    assert metadata["datasets"] == ["uoft-cs/cifar10"]
    assert metadata["base_model"] == "someone/mixer"
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"] == {"type": "uoft-cs/cifar10", "name": "cifar10", "split": "held-out training images"}
    assert [metric["name"] for metric in result["metrics"]] == ["Top-1 accuracy", "Top-5 accuracy"]  # no NaN in YAML
    assert "training images that were held out of cifar10" in text
    assert "| Top-1 accuracy before training | 25.00% |" in text
    _, text = card("private.md", data="/home/someone/photos", weights="/home/someone/old.npz", data_dir="/home/data")
    assert "Trained on photos." in text
    assert "the weights `old.npz`" in text
    assert "/home" not in text
    (copy / "results.json").unlink()
    assert cli.main(["card", str(copy), "--output", str(tmp_path / "unfinished.md")]) == 2
    assert "is not a finished run" in capsys.readouterr().err

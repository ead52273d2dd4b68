"""The model card: its metadata parse, its figures are those of the run, and nothing is empty."""

import json

import yaml

from keras_mixer import cli

NAMES = ("cat", "dog", "a|b")


def card_of(run):
    """The metadata and the text of a card."""
    assert cli.main(["card", str(run)]) == 0
    start, metadata, text = (run / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert start == ""
    return yaml.safe_load(metadata), text


def test_the_card_has_the_figures_of_the_run_and_its_exports(write_run, capsys, monkeypatch):
    run = write_run("pets", NAMES, data="own data (24 images)")
    figures = {"runtime": "LiteRT 2", "images": 24, "agreement": 1.0, "max_difference": 2.5e-7, "bytes": 1_250_000}
    figures["passed"] = True
    (run / "export").mkdir()
    for name in ("model.tflite", "deleted.tflite"):
        (run / "export" / f"{name}.parity.json").write_text(json.dumps(figures | {"export_accuracy": 0.5}))
    (run / "export" / "model.tflite").touch()
    metadata, text = card_of(run)
    assert (metadata["library_name"], metadata["pipeline_tag"]) == ("keras", "image-classification")
    assert not metadata.keys() & {"license", "base_model"}  # the user's choice; none is on the Hub
    (entry,) = metadata["model-index"]
    (result,) = entry["results"]
    assert result["dataset"] == {"type": "own-data", "name": "own data", "split": "test"}
    values = {metric["name"]: metric["value"] for metric in result["metrics"]}
    assert (entry["name"], values) == ("pets", {"Top-1 accuracy": 0.875, "Loss": 0.1235})  # 3 classes: no top 5
    for line in (
        "| Top-1 accuracy | 87.50% |",
        "On 8 test images of own data",
        "Trained on own data. Classes: `cat`, `dog`, `a|b`.",
        "| `export/model.tflite` | 1.25 MB | LiteRT 2 | 24 | 100.00% | 2.5e-07 | 50.00% |",
    ):
        assert line in text
    assert "deleted" not in text
    monkeypatch.chdir(run)
    exec(text.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out.splitlines()[-1] in NAMES


def test_public_data_and_weights_are_named_and_folders_of_this_machine_are_not(write_run):
    results = {"top5": 0.75, "loss": None, "part": "held-out"}  # a loss that is not finite
    public = {"data": "cifar10", "weights": "hf://someone/mixer@main/model.keras", "holdout": 0.1}
    metadata, text = card_of(write_run("public", NAMES, results, **public))
    assert metadata["base_model"] == "someone/mixer"
    (result,) = metadata["model-index"][0]["results"]
    assert result["dataset"] == {"type": "cifar10", "name": "cifar10", "split": "held-out training images"}
    assert [metric["name"] for metric in result["metrics"]] == ["Top-1 accuracy", "Top-5 accuracy"]
    assert "training images that were held out of cifar10" in text
    private = {"data": "/home/someone/photos", "weights": "/home/someone/old.npz", "data_dir": "/home/data"}
    _, text = card_of(write_run("private", NAMES, **private))
    assert "Trained on photos." in text
    assert "the weights `old.npz`" in text
    assert "/home" not in text

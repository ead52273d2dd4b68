"""`keras-mixer export --format all`: one table, and an exit status that is right."""

import dataclasses
import json

import keras
import pytest
from image_files import write_folder

from keras_mixer import cli
from keras_mixer.cli import export as command
from keras_mixer.export import formats
from keras_mixer.export.parity import Parity, Threshold
from keras_mixer.export.predictor import Unsupported

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are written on TensorFlow")
GOOD = Parity("LiteRT", "tensorflow", 5, 1e-7, 0.0, 1.0, 1.0, 1.0, ("image",), 1, 1.0, 1.0, 1, 1, Threshold(1e-5))


@pytest.fixture
def call(tmp_path, capsys):
    """Saves a model, exports all formats of it, and returns the status, the rows of the table and the error."""
    data = str(write_folder(tmp_path / "images"))

    def export_all(model=None, *options):
        if model is not None:
            model.save(tmp_path / "model.keras")
        out = tmp_path / "out"
        arguments = ["export", str(tmp_path / "model.keras"), "--format", "all", "--output", str(out)]
        status = cli.main([*arguments, "--data", data, "--images", "4", *options])
        printed = capsys.readouterr()
        rows = {line.split()[0]: line for line in printed.out.splitlines()[2:]}
        return status, rows, printed.err.splitlines()[-1]

    return export_all


def labelled(model):
    model.class_names, model.evaluation_crop = ("circle", "stripe"), "resize"
    return model


def test_formats_that_a_model_without_head_cannot_have_say_why(tiny_mixer, call, tmp_path, monkeypatch):
    others = {name: kind for name, kind in formats.FORMATS.items() if name != "saved_model"}
    monkeypatch.setattr(command, "FORMATS", others)
    status, rows, error = call(tiny_mixer(include_top=False, pooling="avg", num_blocks=1))
    assert list(rows) == list(others)
    for row in rows.values():
        assert "not possible: A model without a head has no classes" in row or "not possible: This needs" in row
    assert (status, error) == (2, "error: No format is possible for this model on this machine. The table says why.")
    assert list((tmp_path / "out").iterdir()) == []


def test_each_failure_is_in_the_table_and_in_the_status(tiny_mixer, call, tmp_path, monkeypatch):
    asked = []

    def written(model, path, **options):
        asked.append((path.name, options))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
        return path

    def failing(error):
        def export(model, path, **options):
            path.parent.mkdir(parents=True)
            path.write_bytes(b"half")
            raise error

        return export

    def compare(model, path, *arguments):
        return dataclasses.replace(GOOD, max_difference=1e-3) if path.name == "wrong" else GOOD

    monkeypatch.setattr(command, "compare", compare)
    table = {
        "good": formats.Format("good", written, options=("quantization",)),
        "other": formats.Format("other", written),
        "impossible": formats.Format("impossible", failing(Unsupported("needs\nanother machine"))),
    }
    monkeypatch.setattr(command, "FORMATS", table)
    model = labelled(tiny_mixer(classes=2, num_blocks=1))
    status, rows, _ = call(model, "--quantization", "float16")
    assert status == 0
    assert rows["impossible"].endswith("not possible: needs another machine")
    for name in ("good", "other"):
        *cells, seconds, result = rows[name].split()
        assert cells == [name, str(tmp_path / "out" / name), "0.00", "MB", "1.0e-07", "100.00%"]
        assert float(seconds) >= 0
        assert result == "written"
    options = [("good", {"quantization": "float16"}), ("other", {})]
    assert asked == [(name, {"classifier_activation": None} | kept) for name, kept in options]

    asked.clear()
    status, rows, error = call(None)
    assert (status, rows, asked) == (2, {}, [])  # refused before the first format is written
    assert error.endswith("out/good exists already and is not overwritten; remove it or choose another name.")

    table.clear()
    table["broken"] = formats.Format("broken", failing(ZeroDivisionError()))
    table["wrong"] = formats.Format("wrong", written)
    table["late"] = formats.Format("late", written)
    status, rows, error = call(None)
    assert status == 2
    assert error == "error: Not every format could be verified: broken, wrong. The table says why."
    assert rows["broken"].endswith("failed: ZeroDivisionError")
    assert rows["wrong"].endswith("differs too much")
    assert "wrong.failed" in rows["wrong"]
    assert rows["late"].endswith("written")
    found = {path.name for path in (tmp_path / "out").iterdir()}
    assert found == {
        f"{name}{end}" for name in ("good", "other", "wrong.failed", "late") for end in ("", ".parity.json")
    }


def test_all_formats_for_real_onnx_included(tiny_mixer, call, tmp_path, registry):
    for module in ("onnxruntime", "tf2onnx"):
        pytest.importorskip(module, reason="needs extra [onnx]")
    status, rows, error = call(labelled(tiny_mixer(classes=2, num_blocks=1)), "--version", "7")
    assert status == 0, error
    for name, row in rows.items():
        assert row.endswith("written") or (name == "openvino" and "not possible: This needs openvino" in row)
    parities = list((tmp_path / "out").rglob("*.parity.json"))
    assert len(parities) == sum(row.endswith("written") for row in rows.values()) >= 4
    assert all(json.loads(path.read_text())["passed"] for path in parities)
    assert (tmp_path / "out" / "saved_model" / "7" / "saved_model.pb").is_file()

import dataclasses
import json
import shutil
import sys

import keras
import numpy as np
import pytest
from image_files import write_folder

import keras_mixer
from keras_mixer.cli.export import export as export_command
from keras_mixer.data.sources import load_source
from keras_mixer.export.parity import Parity, Threshold, compare, place_when_proved, size_of, subsample

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are written on TensorFlow")
EXACT = Threshold(max_difference=1e-5)
NOTHING = Parity("LiteRT", "tensorflow", 5, 0.0, 0.0, 1.0, 1.0, 1.0, ("image",), 1, 1.0, 1.0, 1, 1, EXACT)


def batches(pixels, labels, size=2):
    return [(pixels[i : i + size], labels[i : i + size]) for i in range(0, len(pixels), size)]


def test_an_export_equals_its_model(classifier, pixels, tmp_path):
    expected = np.asarray(classifier(pixels))
    labels = expected.argmax(1)
    labels[0] = (labels[0] + 1) % 10
    path = keras_mixer.export_tflite(classifier, tmp_path / "a.tflite")
    parity = compare(classifier, path, batches(pixels.astype(np.uint8), labels), EXACT, threads=1)
    assert parity.passed
    assert 0 < parity.max_difference <= 1e-5
    assert parity.mean_difference <= parity.max_difference
    assert (parity.images, parity.batch_size, parity.threads) == (5, 2, 1)
    assert (parity.agreement, parity.model_accuracy, parity.export_accuracy) == (1, 0.8, 0.8)
    assert parity.bytes == path.stat().st_size == size_of(path)
    assert min(parity.model_images_per_second, parity.export_images_per_second) > 0
    assert parity.runtime == "LiteRT"
    with pytest.raises(ValueError, match="no image to compare on"):
        compare(classifier, path, [], EXACT)


def test_the_export_of_another_model_is_caught(classifier, tiny_mixer, pixels, tmp_path):
    path = keras_mixer.export_tflite(tiny_mixer(input_shape=(16, 24, 3)), tmp_path / "a.tflite")
    parity = compare(classifier, path, batches(pixels, np.zeros(5, int)), EXACT)
    assert parity.max_difference > 0.01
    assert not parity.passed
    assert not dataclasses.replace(parity, threshold=Threshold(min_agreement=1.0)).passed


@pytest.mark.parametrize(
    ("difference", "agreement", "threshold", "passed"),
    [
        (0.2, 0.99, Threshold(min_agreement=0.99), True),
        (0.2, 0.98, Threshold(min_agreement=0.99), False),
        (1e-5, 0.5, Threshold(max_difference=1e-5), True),
        (2e-5, 1.0, Threshold(max_difference=1e-5), False),
        (1e-5, 0.98, Threshold(1e-5, 0.99), False),
        (float("nan"), 1.0, Threshold(), False),
    ],
)
def test_what_passes(difference, agreement, threshold, passed):
    parity = dataclasses.replace(NOTHING, max_difference=difference, agreement=agreement, threshold=threshold)
    assert parity.passed is passed
    assert parity.as_json()["passed"] is passed
    with pytest.raises(ValueError, match=r"min_agreement must be in \[0, 1\]"):
        Threshold(min_agreement=99)


def test_only_what_is_proved_gets_its_name(tmp_path):
    target = tmp_path / "out" / "model.tflite"

    def write(folder):
        assert folder.parent == target.parent
        (folder / "model.tflite").write_bytes(b"model")
        return folder / "model.tflite"

    failed = dataclasses.replace(NOTHING, max_difference=1.0)
    for name in ("model.failed.tflite", "model.failed-2.tflite"):
        place, _ = place_when_proved(write, target, lambda path: failed)
        assert place.name == name
        assert place.read_bytes() == b"model"
        assert not json.loads((target.parent / f"{name}.parity.json").read_text())["passed"]
    assert place_when_proved(write, target, lambda path: NOTHING)[0] == target
    assert json.loads((target.parent / "model.tflite.parity.json").read_text())["threshold"]["max_difference"] == 1e-5
    with pytest.raises(ValueError, match="not overwritten"):
        place_when_proved(write, target, lambda path: NOTHING)
    shutil.rmtree(target.parent)
    with pytest.raises(ZeroDivisionError):
        place_when_proved(write, target, lambda path: 1 / 0)
    assert not list(target.parent.iterdir())


def test_a_thinned_split_still_shows_every_class(tmp_path):
    test = load_source(str(write_folder(tmp_path, images_per_class=6))).test
    few = subsample(test, 5)
    labels = [int(element["label"]) for element in few.elements]
    assert len(labels) == few.size == 4
    assert set(labels) == {0, 1}
    assert subsample(test, 1000).size == test.size


def test_the_command_proves_and_reports(tiny_mixer, tmp_path, capsys):
    data = str(write_folder(tmp_path / "images"))
    model = tiny_mixer(classes=2)
    model.class_names, model.evaluation_crop = ("circle", "stripe"), "resize"
    model.save(tmp_path / "model.keras")
    options = {"run": tmp_path / "model.keras", "data": data, "images": 5}
    export_command(**options, format="saved_model", output=tmp_path / "served", version=3)
    assert (tmp_path / "served" / "3" / "saved_model.pb").is_file()
    assert json.loads((tmp_path / "served" / "3.parity.json").read_text())["images"] == 4
    out = capsys.readouterr().out
    assert "same top-1" in out
    assert "100.00%" in out
    target = tmp_path / "small.tflite"
    with pytest.raises(ValueError, match=r"It is kept as .*small\.failed\.tflite; .* was not written"):
        export_command(**options, format="tflite", quantization="int8", max_difference=1e-9, output=target)
    assert not target.exists()
    with pytest.raises(ValueError, match="other classes than the model: 10"):
        export_command(**options | {"data": "digits"}, output=tmp_path / "other")
    with pytest.raises(ValueError, match="Pass test data with --data"):
        export_command(**options | {"data": None}, output=tmp_path / "other")
    with pytest.raises(ValueError, match="--quantization is an option of --format tflite and web, not of saved"):
        export_command(**options, quantization="int8", output=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_each_limit_keeps_its_default_while_only_the_other_is_given(tiny_mixer, tmp_path):
    data = str(write_folder(tmp_path / "images"))
    model = tiny_mixer(classes=2, num_blocks=1)
    model.class_names, model.evaluation_crop = ("circle", "stripe"), "resize"
    model.save(tmp_path / "model.keras")
    options = {"run": tmp_path / "model.keras", "data": data, "images": 2, "format": "tflite"}
    for given, quantization, expected in (
        ({"min_agreement": 0.5}, "none", (1e-5, 0.5)),
        ({"max_difference": 0.5}, "none", (0.5, None)),
        ({"max_difference": 0.5}, "dynamic_int8", (0.5, 0.99)),
    ):
        target = tmp_path / f"{quantization}-{'-'.join(given)}.tflite"
        export_command(**options, **given, quantization=quantization, output=target)
        threshold = json.loads(target.with_name(f"{target.name}.parity.json").read_text())["threshold"]
        assert (threshold["max_difference"], threshold["min_agreement"]) == expected


def test_the_interpreter_that_ran_is_the_one_that_is_named(classifier, pixels, tmp_path, monkeypatch):
    path = keras_mixer.export_tflite(classifier, tmp_path / "a.tflite")
    assert compare(classifier, path, batches(pixels, np.zeros(5, int)), EXACT).runtime == "LiteRT"
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    assert compare(classifier, path, batches(pixels, np.zeros(5, int)), EXACT).runtime == "TensorFlow Lite"


def test_a_missing_extra_is_named(classifier, tmp_path, monkeypatch):
    from keras_mixer.export.interchange import export_onnx, export_openvino

    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ValueError, match=r"needs openvino: pip install 'keras-mixer\[openvino\]'"):
        export_openvino(classifier, tmp_path / "a")
    with pytest.raises(ValueError, match=r"keras-mixer\[onnx\]"):
        export_onnx(classifier, tmp_path / "a.onnx")

"""`keras_mixer.export` and the command: what is written, proved, refused and printed."""

import json
import os
import shutil
import sys

import keras
import numpy as np
import pytest
from image_files import encode, photographs, turned, write_folder

import keras_mixer
import keras_mixer_command
from keras_mixer import cli
from keras_mixer.export import verified
from keras_mixer.export.verified import FORMATS, ExportDiffers, Format

on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are written on TensorFlow")


@pytest.fixture
def small(tiny_mixer):
    model = tiny_mixer(classes=2, num_blocks=1)
    model.class_names, model.evaluation_crop = ("circle", "stripe"), "resize"
    return model


@pytest.fixture
def quickly(tflite_file, monkeypatch):
    """Format "tflite" writes a file of the classifier that exists already."""

    def write(predictor, path, **options):
        shutil.copy(tflite_file, path)

    monkeypatch.setitem(FORMATS, "tflite", Format("model.tflite", write, FORMATS["tflite"].options))


@on_tensorflow
def test_the_figures_are_returned_and_written_next_to_the_export(classifier, pixels, tmp_path, quickly):
    labels = np.asarray(classifier(pixels)).argmax(1)
    labels[0] = (labels[0] + 1) % 10
    figures = keras_mixer.export(classifier, "tflite", tmp_path / "a.tflite", (pixels, labels[:, None]))
    assert figures.path == tmp_path / "a.tflite"
    assert 0 < figures.max_difference <= 1e-5 == figures.allowed_difference
    assert (figures.images, figures.batch_size, figures.bytes) == (5, 1, figures.path.stat().st_size)
    assert (figures.agreement, figures.model_accuracy, figures.export_accuracy) == (1, 0.8, 0.8)
    written = json.loads((tmp_path / "a.tflite.parity.json").read_text())
    assert written == json.loads(json.dumps(figures.as_json()))
    with pytest.raises(ValueError, match="not overwritten"):
        keras_mixer.export(classifier, "tflite", tmp_path / "a.tflite", pixels)


@on_tensorflow
def test_image_files_are_prepared_here_and_sent_to_every_input(classifier, tmp_path):
    (tmp_path / "turned.jpg").write_bytes(turned(photographs()[0]))
    images = [tmp_path / "turned.jpg", encode(photographs()[1], "WEBP"), encode(photographs()[1], "PNG")]
    figures = keras_mixer.export(classifier, "saved_model", tmp_path / "served", images)
    assert (figures.images, figures.inputs) == (3, ("image", "image_uint8", "image_bytes"))
    assert figures.model_accuracy is None


@on_tensorflow
def test_what_cannot_be_exported_leaves_nothing(classifier, pixels, tmp_path, monkeypatch, quickly):
    monkeypatch.setitem(sys.modules, "onnx", None)
    for message, format, images, options in [
        ("Unknown format 'onyx'. Use one of: saved_model, tflite, onnx, openvino, web", "onyx", None, {}),
        ("tflite has no option precision; its options are: quantization, ", "tflite", None, {"precision": "bfloat16"}),
        ("min_agreement must be less than or equal to 1, got 99", "tflite", None, {"min_agreement": 99}),
        ("Pass images to compare on: .* noise", "tflite", None, {"quantization": "dynamic_int8"}),
        (r"Expected images of shape \(16, 24, 3\), got \(24, 16, 3\)", "tflite", pixels.swapaxes(1, 2), {}),
        ("Pixels are .* but the model expects", "tflite", pixels / 255, {}),
        ("Expected images to compare on, or None for noise, got none", "tflite", [], {}),
        ("evaluation_crop must be 'resize', .* got 'center'", "tflite", None, {"evaluation_crop": "center"}),
        ("does not fit a model that ends in softmax", "tflite", None, {"classifier_activation": "sigmoid"}),
        (r"9 class names .* 10 classes", "tflite", None, {"class_names": list("abcdefghi")}),
        ("onnx", "onnx", None, {}),
    ]:
        with pytest.raises((ValueError, ImportError, UserWarning), match=message):
            keras_mixer.export(classifier, format, tmp_path / "out" / f"a.{format}", images, **options)
    assert not list((tmp_path / "out").iterdir())


@on_tensorflow
@pytest.mark.parametrize(("difference", "allowed"), [(0.2, None), (float("nan"), 1.0), (0.2, 0.5)])
def test_only_what_is_proved_gets_its_name(classifier, pixels, tmp_path, monkeypatch, quickly, difference, allowed):
    reference_of = verified.reference_of
    monkeypatch.setattr(verified, "reference_of", lambda *given: lambda x: reference_of(*given)(x) + difference)
    path, arguments = tmp_path / "model.tflite", {"images": pixels, "max_difference": allowed}
    if allowed == 0.5:
        assert keras_mixer.export(classifier, "tflite", path, **arguments).passed
        return
    with pytest.raises(ExportDiffers, match=r"model\.tflite was not written") as caught:
        keras_mixer.export(classifier, "tflite", path, **arguments)
    assert not caught.value.parity.passed
    assert not list(tmp_path.iterdir())


@pytest.mark.backends
@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="for other backends")
def test_another_backend_is_told_what_to_set(tiny_mixer, tmp_path):
    for export in (keras_mixer.export_saved_model, keras_mixer.export_tflite, keras_mixer.export):
        format = ("tflite",) if export is keras_mixer.export else ()
        with pytest.raises(ValueError, match="with KERAS_BACKEND=tensorflow"):
            export(tiny_mixer(), *format, tmp_path / "a.tflite")
    assert not list(tmp_path.iterdir())


def test_the_command_chooses_tensorflow(monkeypatch):
    monkeypatch.setattr(cli, "main", lambda arguments: 0)
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
    for command, backend in (("train", "jax"), ("export", "tensorflow")):
        monkeypatch.setenv("KERAS_BACKEND", "jax")
        monkeypatch.setattr(sys, "argv", ["keras-mixer", command])
        assert keras_mixer_command.main() == 0
        assert os.environ["KERAS_BACKEND"] == backend


@pytest.fixture
def command(tmp_path, capsys):
    """Exports a model by the command, compared on four images; returns the status and what is printed."""
    data = str(write_folder(tmp_path / "images"))

    def call(model, *options, data=data):
        model.save(tmp_path / "model.keras")
        given = ["--data", data] if data else []
        status = cli.main(["export", str(tmp_path / "model.keras"), *given, "--images", "4", *options])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


@on_tensorflow
def test_the_command_prints_the_figures_and_refuses_what_does_not_fit(small, tiny_mixer, command, tmp_path):
    to_file = "--format", "tflite", "--output", str(tmp_path / "out.tflite")
    status, out, err = command(small, *to_file, "--quantization", "int8", "--max-difference", "1e-9")
    assert (status, "out.tflite was not written" in err, "TensorFlow Lite 2." in out) == (2, True, True)
    assert not (tmp_path / "out.tflite").exists()
    assert "other classes than the model: 10" in command(small, *to_file, data="digits")[2]
    assert "Pass them with --data" in command(small, *to_file, data=None)[2]
    served = ("--quantization", "float16", "--output", str(tmp_path / "served"))
    assert "saved_model has no option quantization" in command(small, *served)[2]

    logits = tiny_mixer(classes=2, num_blocks=1, classifier_activation=None, include_preprocessing=False)
    logits.class_names = ("circle", "stripe")
    limit = "--max-difference", "0.04", "--output", str(tmp_path / "served")
    _, out, _ = command(logits, "--classifier-activation", "sigmoid", "--precision", "bfloat16", *limit)
    assert "largest difference (image, image_uint8, image_bytes)" in out
    parity = json.loads((tmp_path / "served" / "1.parity.json").read_text())
    assert (parity["allowed_difference"], parity["needed_agreement"]) == (0.04, 0.99)  # one limit keeps the other
    assert 1e-5 < parity["max_difference"] < 0.04

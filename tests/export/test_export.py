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
from keras_mixer.export.predictor import Unsupported
from keras_mixer.export.verified import TFLITE_OPTIONS, ExportDiffers, Format

on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are written on TensorFlow")


@pytest.fixture
def small(tiny_mixer):
    """A classifier of the two classes of `write_folder`."""
    model = tiny_mixer(classes=2, num_blocks=1)
    model.class_names, model.evaluation_crop = ("circle", "stripe"), "resize"
    return model


@pytest.fixture
def quickly(tflite_file, monkeypatch):
    """Format "tflite" writes a file of the classifier that exists already."""

    def write(predictor, path, **options):
        shutil.copy(tflite_file, path)

    monkeypatch.setitem(verified.FORMATS, "tflite", Format("model.tflite", write, TFLITE_OPTIONS, batch_size=1))


@on_tensorflow
@pytest.mark.parametrize("images", [(), []])
def test_no_images_to_compare_on_are_refused(classifier, images, tmp_path, quickly):
    with pytest.raises(ValueError, match="Expected images to compare on, or None for noise, got none"):
        keras_mixer.export(classifier, "tflite", tmp_path / "a.tflite", images)


@on_tensorflow
def test_the_figures_are_returned_and_written_next_to_the_export(classifier, pixels, tmp_path, quickly):
    expected = np.asarray(classifier(pixels))
    labels = expected.argmax(1)
    labels[0] = (labels[0] + 1) % 10
    figures = keras_mixer.export(classifier, "tflite", tmp_path / "a.tflite", (pixels, labels))
    assert figures.path == tmp_path / "a.tflite"
    assert figures.passed
    assert 0 < figures.max_difference <= 1e-5 == figures.allowed_difference
    assert figures.mean_difference <= figures.max_difference
    assert (figures.images, figures.batch_size) == (5, 1)
    assert (figures.agreement, figures.model_accuracy, figures.export_accuracy) == (1, 0.8, 0.8)
    assert figures.bytes == figures.path.stat().st_size
    assert min(figures.model_images_per_second, figures.export_images_per_second) > 0
    written = json.loads((tmp_path / "a.tflite.parity.json").read_text())
    assert written == json.loads(json.dumps(figures.as_json()))
    assert written["passed"]
    with pytest.raises(ValueError, match="not overwritten"):
        keras_mixer.export(classifier, "tflite", tmp_path / "a.tflite", pixels)


@on_tensorflow
def test_image_files_are_prepared_here_and_sent_to_every_input(classifier, tmp_path):
    turned_file = tmp_path / "turned.jpg"
    turned_file.write_bytes(turned(photographs()[0]))
    images = [turned_file, encode(photographs()[1], "WEBP"), encode(photographs()[1], "PNG")]
    figures = keras_mixer.export(classifier, "saved_model", tmp_path / "served", images)
    assert (figures.images, figures.inputs) == (3, ("image", "image_uint8", "image_bytes"))
    assert figures.model_accuracy is None


@on_tensorflow
def test_what_cannot_be_exported_leaves_nothing(classifier, pixels, tmp_path, monkeypatch, quickly):
    def refused(message, format="tflite", images=None, **options):
        with pytest.raises(ValueError, match=message):
            keras_mixer.export(classifier, format, tmp_path / "out" / f"a.{format}", images, **options)

    refused("Unknown format 'onyx'. Use one of: saved_model, tflite, onnx, openvino, web", "onyx")
    refused("precision is an option of saved_model, not of tflite", precision="bfloat16")
    refused("colour is an option of no format, not of onnx", "onnx", colour="red")
    refused("min_agreement must be less than or equal to 1, got 99", min_agreement=99)
    refused("Pass images to compare on: the most probable class of noise", quantization="dynamic_int8")
    refused(r"Expected images \(N, 16, 24, 3\), got \(5, 24, 16, 3\)", images=pixels.swapaxes(1, 2))
    refused("Expected images to compare on, or None for noise, got none", images=[])
    refused("a list of image files or an array of images, got dict", images={})
    refused("Unknown evaluation crop 'centre'", evaluation_crop="centre")
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    refused(r"needs openvino: pip install 'keras-mixer\[openvino\]'", "openvino")
    refused(r"keras-mixer\[onnx\]", "onnx")
    assert not list((tmp_path / "out").iterdir())


@on_tensorflow
@pytest.mark.parametrize(
    ("difference", "limits", "passed"),
    [(0.2, {}, False), (0.2, {"max_difference": 0.5}, True), (float("nan"), {"max_difference": 1.0}, False)],
)
def test_only_what_is_proved_gets_its_name(
    classifier, pixels, tmp_path, monkeypatch, quickly, difference, limits, passed
):
    probabilities_of = verified.reference_of

    def shifted(*arguments):
        reference = probabilities_of(*arguments)
        return lambda images: reference(images) + difference

    monkeypatch.setattr(verified, "reference_of", shifted)
    target = tmp_path / "model.tflite"
    if passed:
        assert keras_mixer.export(classifier, "tflite", target, pixels, **limits).path == target
        return
    for name in ("model.failed.tflite", "model.failed-2.tflite"):
        with pytest.raises(ExportDiffers) as caught:
            keras_mixer.export(classifier, "tflite", target, pixels, **limits)
        assert caught.value.parity.path == tmp_path / name
        assert not json.loads((tmp_path / f"{name}.parity.json").read_text())["passed"]
    assert not target.exists()


@pytest.mark.backends
@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="for other backends")
def test_another_backend_is_told_what_to_set(tiny_mixer, tmp_path):
    for export in (
        lambda: keras_mixer.export(tiny_mixer(), "tflite", tmp_path / "a.tflite"),
        lambda: keras_mixer.export_saved_model(tiny_mixer(), tmp_path / "served"),
        lambda: keras_mixer.export_tflite(tiny_mixer(), tmp_path / "a.tflite"),
    ):
        with pytest.raises(ValueError, match="with KERAS_BACKEND=tensorflow"):
            export()
    assert not list(tmp_path.iterdir())


def test_the_command_chooses_tensorflow(monkeypatch):
    monkeypatch.setattr(cli, "main", lambda: 0)
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
    assert (status, "out.failed.tflite" in err, "minimum runtime" in out) == (2, True, True)
    assert not (tmp_path / "out.tflite").exists()
    assert "other classes than the model: 10" in command(small, *to_file, data="digits")[2]
    assert "Pass test data with --data" in command(small, *to_file, data=None)[2]
    message = "quantization is an option of tflite and web, not of saved_model"
    assert message in command(small, "--quantization", "float16")[2]
    status, out, _ = command(small, *to_file, "--quantization", "dynamic_int8", "--max-difference", "0.5")
    assert (status, "TensorFlow Lite 2.17.0" in out) == (0, True)
    limits = json.loads((tmp_path / "out.tflite.parity.json").read_text())
    assert (limits["allowed_difference"], limits["needed_agreement"]) == (0.5, 0.99)  # one limit keeps the other

    logits = tiny_mixer(classes=2, classifier_activation=None, include_preprocessing=False)
    logits.class_names = ("circle", "stripe")
    _, out, _ = command(logits, "--classifier-activation", "sigmoid", "--precision", "bfloat16")
    assert "largest difference (image, image_uint8, image_bytes)" in out
    parity = json.loads((tmp_path / "export" / "saved_model" / "1.parity.json").read_text())
    assert (parity["allowed_difference"], parity["needed_agreement"]) == (0.05, 0.99)
    assert 1e-5 < parity["max_difference"] < 0.05
    _, out, _ = command(tiny_mixer(include_top=False, pooling="avg"))
    assert "unknown" in out
    parity = json.loads((tmp_path / "export" / "saved_model" / "2.parity.json").read_text())
    assert parity["model_accuracy"] is None


@on_tensorflow
def test_each_failure_is_in_the_table_and_in_the_status(small, tiny_mixer, command, tmp_path, monkeypatch):
    def failing(error):
        def write(predictor, path, **options):
            path.write_bytes(b"half")
            raise error

        return write

    def of_another(predictor, path):
        other = tiny_mixer(classes=2, num_blocks=1)
        keras_mixer.export_tflite(other, path)

    def export_all(model, *options):
        status, out, err = command(model, "--format", "all", "--output", str(tmp_path / "out"), *options)
        return status, {line.split()[0]: line for line in out.splitlines()}, err.splitlines()[-1]

    table = {"tflite": verified.FORMATS["tflite"]}
    table["impossible"] = Format("impossible", failing(Unsupported("needs\nanother machine")))
    table["broken"] = Format("broken", failing(ZeroDivisionError()))
    table["wrong"] = Format("wrong.tflite", of_another)
    for place in (verified, cli.export):
        monkeypatch.setattr(place, "FORMATS", table)
    status, rows, error = export_all(small, "--quantization", "float16")
    assert status == 2
    assert error == "error: Not every format could be verified: broken, wrong. The table says why."
    assert rows["impossible"].endswith("not possible: needs another machine")
    assert rows["broken"].endswith("failed: ZeroDivisionError")
    assert rows["wrong"].endswith("differs too much")
    assert rows["tflite"].endswith("written")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        f"{name}{end}" for name in ("model.tflite", "wrong.failed.tflite") for end in ("", ".parity.json")
    }
    status, rows, error = export_all(small)
    assert (status, rows) == (2, {})  # refused before the first format is written
    assert error.endswith("out/model.tflite exists already and is not overwritten; remove it or choose another name.")

    shutil.rmtree(tmp_path / "out")
    del table["broken"], table["wrong"]
    status, rows, error = export_all(tiny_mixer(include_top=False, pooling="avg", num_blocks=1))
    assert "not possible: A model without a head has no classes" in rows["tflite"]
    assert (status, error) == (2, "error: No format is possible for this model on this machine. The table says why.")

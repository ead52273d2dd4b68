"""`keras_mixer.load` opens everything that holds a classifier, and refuses all else in words."""

import json
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, evaluated, photographs, turned
from PIL import Image

import keras_mixer
from keras_mixer import cli
from keras_mixer.export.runtimes import DESCRIPTION

on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are written on TensorFlow")


@pytest.fixture
def model(tiny_mixer):
    model = tiny_mixer(input_shape=(16, 24, 3), num_blocks=1)
    model.class_names, model.evaluation_crop = tuple("abcdefghij"), "resize-crop"
    return model


@pytest.fixture
def run(model, tmp_path):
    (tmp_path / "run").mkdir()
    model.save(tmp_path / "run" / "model.keras")
    return tmp_path / "run"


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "photograph.jpg"
    path.write_bytes(turned(photographs()[0]))
    return path


@pytest.mark.backends
def test_a_run_predicts_as_its_model_whatever_form_the_image_has(model, run, photograph, capsys):
    upright = np.rot90(tf.io.decode_jpeg(photograph.read_bytes()).numpy(), -1)
    image = np.asarray(evaluated(encode(upright, "PNG"), (16, 24), "resize-crop"))
    np.testing.assert_array_equal(keras_mixer.preprocess_image(photograph, model), image)
    expected = keras.ops.convert_to_numpy(model(image[None]))[0]
    best = np.argsort(-expected)[:3]
    loaded = keras_mixer.load(run)
    for given in (photograph, str(photograph), photograph.read_bytes(), upright):
        prediction = loaded.predict(given, top_k=3)
        assert prediction.labels == tuple("abcdefghij"[i] for i in best)
        np.testing.assert_allclose(prediction.probabilities, expected[best], atol=1e-5)
        assert prediction.image == (str(photograph) if str(given) == str(photograph) else "")
    np.testing.assert_array_equal(keras_mixer.preprocess_image(upright, loaded), image)
    opened = keras_mixer.preprocess_image(Image.open(photograph), model)  # decoded by Pillow
    assert np.abs(opened - image.astype(float)).max() < 10
    assert cli.main(["predict", str(run), str(photograph), "--top-k", "2", "--json"]) == 0
    (printed,) = json.loads(capsys.readouterr().out)
    assert (printed["image"], printed["labels"]) == (str(photograph), list(prediction.labels[:2]))
    for scaled in (image[None] / 255, image[None] / 127.5 - 1):
        with pytest.warns(UserWarning, match=r"the model expects 0 \(black\) to 255 \(white\)"):
            loaded.probabilities(scaled)
    loaded.predict(encode(image // 128, "PNG"))  # of a camera behind its cap


@on_tensorflow
def test_in_bfloat16_the_weights_are_stored_so_and_the_answers_close(run, rng, photograph, capsys):
    pixels = rng.integers(0, 256, (8, 16, 24, 3), dtype=np.uint8)
    exact, loaded = keras_mixer.load(run).probabilities(pixels), keras_mixer.load(run, precision="bfloat16")
    assert {weight.dtype for weight in loaded.model.get_layer("mixer_block_0").weights} == {"bfloat16"}
    found = loaded.probabilities(pixels)
    assert found.dtype == np.float32
    assert 0 < np.abs(found - exact).max() < 0.02
    assert cli.main(["predict", str(run), str(photograph), "--precision", "bfloat16", "--json"]) == 0
    (printed,) = json.loads(capsys.readouterr().out)
    assert printed["probabilities"] == pytest.approx(loaded.predict(photograph).probabilities)
    with pytest.raises(ValueError, match="precision must be 'float32' or 'bfloat16', got 'float16'"):
        keras_mixer.load(run, precision="float16")


@pytest.mark.backends
def test_useless_paths_are_refused(photograph, tmp_path):
    with pytest.raises(FileNotFoundError, match="no model at"):
        keras_mixer.load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", photograph):
        with pytest.raises(ValueError, match=r"does not contain a model: no model\.keras \(of a finished run\)"):
            keras_mixer.load(path)


def test_useless_images_are_refused(run, tmp_path):
    loaded = keras_mixer.load(run)
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    for image, message in [
        (tmp_path / "bad.jpg", r"bad\.jpg: not an image that Pillow can read"),
        (b"no image", "These 8 bytes cannot be read as an image: not an image that Pillow can read"),
        (np.zeros((16, 24, 3)), r"got \(16, 24, 3\) float64. Batches of the model's size go to probabilities"),
    ]:
        with pytest.raises(ValueError, match=message):
            loaded.predict(image)
    with pytest.raises(FileNotFoundError, match="no image file"):
        loaded.predict(tmp_path / "nothing.jpg")


@on_tensorflow
def test_what_is_not_ours_or_damaged_or_lacks_its_runtime_is_named(tflite_file, tmp_path, monkeypatch):
    content, path = tflite_file.read_bytes(), tmp_path / "other.tflite"
    bare = content[: content.index(b"PK\3\4")]  # without the archive of descriptions
    with zipfile.ZipFile(tflite_file) as archive:
        description = json.loads(archive.read(DESCRIPTION))

    def refused(message, kind=ValueError, **options):
        with pytest.raises(kind, match=message):
            keras_mixer.load(path, **options)

    path.write_bytes(bare)
    refused(r"other\.tflite cannot be opened: it is damaged, or was not written by this package \(BadZipFile")
    refused(r"is for runs and \.keras files, not for .*other\.tflite", precision="bfloat16")
    for wrong in ({"output": "logits"}, {"activation": "relu"}, {"class_names": [1]}, {"trained_on": 1}):
        path.write_bytes(bare)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(DESCRIPTION, json.dumps(description | wrong))
        refused(rf"other\.tflite cannot be opened: .*for Predictor .*{next(iter(wrong))}")
    path.write_bytes(content[:1000])
    refused("cannot be opened: it is damaged")
    path = tmp_path / "other.onnx"
    path.touch()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused("onnxruntime", ImportError)

"""Whatever a model takes and gives, its exports take pixels in [0, 255] and give the probabilities of the oracle."""

import json

import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from conftest import randomize
from image_files import encode, photographs

import keras_mixer
from keras_mixer.anatomy import Anatomy
from keras_mixer.export import predictor, saved_model, web
from keras_mixer.export.predictor import Predictor
from keras_mixer.export.runtimes import open_export
from keras_mixer.export.verified import FORMATS, ExportDiffers

tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports are written on TensorFlow"
)
SIZE = (16, 24)
KINDS = {
    "pixels in [-1, 1]": {"include_preprocessing": False},
    "pixels in [0, 1]": {"include_preprocessing": False, "pixel_range": (0, 1)},
    "logits": {"classifier_activation": None},
    "logits of a sigmoid loss": {"classifier_activation": None, "loss": "sigmoid"},
    "logits of pixels in [-1, 1]": {"classifier_activation": None, "include_preprocessing": False},
    "sigmoid": {"classifier_activation": "sigmoid", "include_preprocessing": False},
    "erf GELU": {"exact_gelu": True},
}
BY_KERAS = pytest.param("keras", marks=pytest.mark.backends)
BY_TENSORFLOW = [pytest.param(format, marks=tensorflow_only) for format in FORMATS]
tflite_files: dict[str, bytes] = {}  # by kind


@pytest.fixture(scope="module")
def models():
    rng, found = np.random.default_rng(0), {}
    for kind, given in KINDS.items():
        options = {name: value for name, value in given.items() if name != "loss"}
        found[kind] = randomize(keras_mixer.Mixer(4, 1, 32, 16, 64, input_shape=(*SIZE, 3), classes=10, **options), rng)
        found[kind].class_names, found[kind].evaluation_crop = tuple("abcdefghij"), "resize-crop"
        if kind == "sigmoid":  # the user's own input, with augmentation inside
            flipped = keras.layers.RandomFlip()(image := keras.Input((*SIZE, 3)))
            found[kind] = keras_mixer.MixerModel(image, Anatomy(found[kind]).apply(flipped)[-1])
        if "loss" in given:
            found[kind].compile(optimizer="sgd", loss=keras.losses.BinaryCrossentropy(from_logits=True))
            found[kind].optimizer.build(found[kind].trainable_variables)
    return found


def oracle(model, pixels, kind):
    """Probabilities `(B, classes)` of pixels in [0, 255], from the weights and the kind alone."""
    if "pixel_range" in KINDS.get(kind, {}):
        pixels = pixels / 255 * 127.5 + 127.5  # the oracle maps to [-1, 1]; this makes [0, 1] of it
    weights = {w.path: np.asarray(w.numpy(), np.float64) for w in model.weights}
    logits = reference.mixer(pixels, weights, reference.exact_gelu if "erf" in kind else reference.gelu)
    if "sigmoid" in kind:
        return 1 / (1 + np.exp(-logits))
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def write(model, format, folder, **options):
    """Writes a model, and proves an export against Keras; returns the file or folder."""
    if format == "keras":
        model.save(folder / "model.keras")
        return folder / "model.keras"
    for module in {"onnx": ("tf2onnx", "onnxruntime"), "openvino": ("openvino",)}.get(format, ()):
        pytest.importorskip(module, reason=f"needs extra [{format}]")
    return keras_mixer.export(model, format, folder / FORMATS[format].name, **options).path


@pytest.mark.parametrize("format", [BY_KERAS, *BY_TENSORFLOW])
@pytest.mark.parametrize("kind", KINDS)
def test_every_form_of_every_kind_is_the_oracle(models, litert, rng, tmp_path, kind, format, monkeypatch):
    model = models[kind]
    if format == "web" and kind in tflite_files:  # the page has the same file, which takes seconds to convert
        monkeypatch.setattr(web, "write_tflite", lambda _, path, **options: path.write_bytes(tflite_files[kind]))
    path = write(model, format, tmp_path, **({"version": 10} if format == "saved_model" else {}))
    if format == "tflite":
        tflite_files[kind] = path.read_bytes()
    if format == "onnx":
        assert pytest.importorskip("onnxruntime").InferenceSession(path).get_inputs()[0].shape[0] == "batch"
    loaded = keras_mixer.load(path)
    assert (loaded.facts.pixel_range, loaded.output) == ((0, 255), "probabilities")
    if format == "web":
        assert json.loads((path / "model.json").read_text()) == json.loads(loaded.as_json())
    pixels = rng.integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
    expected = oracle(model, pixels, kind)
    np.testing.assert_allclose(loaded.probabilities(pixels), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"Expected images \(B, 16, 24, 3\), got \(3, 24, 16, 3\)"):
        loaded.probabilities(pixels.swapaxes(1, 2))
    # Images whose crops have no fraction that float32 could cut off in another way.
    images = [np.repeat(np.repeat(photographs()[0][i : i + 9, i : i + 14], 4, 0), 4, 1) for i in (0, 100, 300)]
    cropped = np.stack([np.floor(reference.evaluation_crop(image, SIZE, "resize-crop") + 1e-6) for image in images])
    of_images, encoded = oracle(model, cropped, kind), [encode(image, "PNG") for image in images]
    encodings = ["image_uint8", "image_bytes"] if format == "saved_model" else []
    assert list(loaded.inputs) == ["image", *encodings]
    if format == "saved_model":
        np.testing.assert_allclose(loaded.inputs["image_uint8"](pixels), expected, atol=1e-5)
        np.testing.assert_allclose(loaded.inputs["image_bytes"](encoded), of_images, atol=1e-5)
        (path.parent / "2").mkdir()  # the newest is 10, though "2" comes after it as text
    if kind == "sigmoid":  # once: the same export by its other name
        loaded = keras_mixer.load({"saved_model": path.parent, "openvino": path / "model.xml"}.get(format, path))
    prediction = loaded.predict(encoded[0], top_k=3)
    best = np.argsort(-of_images[0])[:3]
    assert prediction.labels == tuple("abcdefghij"[i] for i in best)
    np.testing.assert_allclose(prediction.probabilities, of_images[0, best], atol=1e-5)
    if kind == "logits":  # once: what the option says they mean
        told = Predictor.of(model, classifier_activation="sigmoid").probabilities(pixels)
        np.testing.assert_allclose(told, oracle(model, pixels, "sigmoid"), atol=1e-5)


@tensorflow_only
@pytest.mark.parametrize(("quantization", "limit"), [("float16", 5e-4), ("dynamic_int8", 0.02), ("int8", 0.05)])
def test_low_precision_is_close_to_the_oracle(models, rng, tmp_path, quantization, limit):
    model, pixels = models["erf GELU"], rng.integers(0, 256, (64, *SIZE, 3), dtype=np.uint8)
    options = {"quantization": quantization, "min_agreement": 0}
    if quantization == "int8":
        options |= {"representative_images": np.minimum(pixels, 200), "batch_size": 2}
    figures = keras_mixer.export(model, "tflite", tmp_path / "model.tflite", pixels, **options)
    found = keras_mixer.load(figures.path).probabilities(pixels[:9])  # with two images a call, one is left over
    assert np.abs(found - oracle(model, pixels[:9], "erf GELU")).max() < limit
    assert found.dtype == np.float32
    assert (figures.minimum_runtime == "2.17.0") == (quantization == "dynamic_int8")
    runner = tf.lite.Interpreter(str(figures.path)).get_signature_runner("serving_default")
    details = runner.get_input_details()["image"], runner.get_output_details()["probabilities"]
    assert {one["dtype"] for one in details} == {np.uint8 if quantization == "int8" else np.float32}
    assert details[0]["quantization"] == ((1.0, 0) if quantization == "int8" else (0.0, 0))  # 255 is white


@tensorflow_only
def test_a_model_without_head_exports_its_features_alone(tiny_mixer, litert, rng, tmp_path):
    model = tiny_mixer(include_top=False, include_preprocessing=False)
    figures = keras_mixer.export(model, "saved_model", tmp_path / "features")
    assert (figures.model_accuracy, figures.inputs) == (None, ("image",))
    opened = open_export(figures.path)
    pixels = rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    features = np.asarray(model(pixels / 127.5 - 1)).mean((1, 2))
    np.testing.assert_allclose(opened.inputs["image"](pixels.astype(np.float32)), features, atol=1e-5)
    assert (set(opened.inputs), opened.facts.class_names) == ({"image"}, ())
    for format in ("tflite", "onnx", "web"):
        with pytest.raises(ValueError, match="A model without a head has no classes"):
            write(model, format, tmp_path)
    with pytest.raises(ValueError, match=r"without a head has no classes to predict.*include_top=True"):
        keras_mixer.load(figures.path)
    assert {item.name for item in tmp_path.iterdir()} == {"features"}


def without_range(given, activation):
    return keras.Model(given.input, keras.layers.Activation(activation)(given.output))


@tensorflow_only
@pytest.mark.parametrize(
    ("module", "name", "faulty"),
    [
        (predictor, "completed", without_range),
        (predictor, "completed", lambda given, activation, right=predictor.completed: right(given)),
        (saved_model, "evaluation_images", lambda *given, right=saved_model.evaluation_images: right(*given)[:, ::-1]),
    ],
    ids=["no range", "no activation", "bytes upside down"],
)
def test_an_export_that_feeds_its_model_wrongly_is_not_written(models, tmp_path, monkeypatch, module, name, faulty):
    """The very faults that a comparison with the exporter's own idea of a model could not see."""
    monkeypatch.setattr(module, name, faulty)
    with pytest.raises(ExportDiffers, match="differs too much from its model: largest difference") as caught:
        keras_mixer.export(models["logits of pixels in [-1, 1]"], "saved_model", tmp_path / "served")
    assert caught.value.parity.inputs == ("image", "image_uint8", "image_bytes")
    assert not list((tmp_path / "served").iterdir())

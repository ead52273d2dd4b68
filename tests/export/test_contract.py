"""Whatever a model takes and gives, its exports take pixels in [0, 255] and give the probabilities of the oracle."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import reference
from image_files import encode, photographs

import keras_mixer
from keras_mixer.anatomy import anatomy
from keras_mixer.export import predictor, saved_model, web
from keras_mixer.export.predictor import Predictor, load_mixer, read_description
from keras_mixer.export.runtimes import open_export
from keras_mixer.export.verified import FORMATS, ExportDiffers

tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports are written on TensorFlow"
)
SIZE = (16, 24)
KINDS = {
    "pixels in [-1, 1]": {"include_preprocessing": False},
    "pixels in [0, 1]": {"include_preprocessing": False, "pixel_range": (0, 1)},
    "pixels in [0, 255], [0, 1] at the stem": {"pixel_range": (0, 1)},
    "logits": {"classifier_activation": None},
    "logits of a sigmoid loss": {"classifier_activation": None, "loss": "sigmoid"},
    "logits of pixels in [-1, 1]": {"classifier_activation": None, "include_preprocessing": False},
    "sigmoid": {"classifier_activation": "sigmoid", "include_preprocessing": False},
    "erf GELU": {"exact_gelu": True},
}


@pytest.fixture
def build(tiny_mixer):
    """Builds a model of a kind."""

    def built(kind):
        options = dict(KINDS[kind])
        loss = options.pop("loss", None)
        model = tiny_mixer(input_shape=(*SIZE, 3), num_blocks=1, **options)
        model.class_names, model.evaluation_crop = tuple("abcdefghij"), "resize-crop"
        if loss:
            model.compile(optimizer="sgd", loss=keras.losses.BinaryCrossentropy(from_logits=True))
            model.optimizer.build(model.trainable_variables)
        return model

    return built


tflite_files: dict[str, bytes] = {}  # by kind


def oracle(model, pixels, kind):
    """Probabilities `(B, classes)` of pixels in [0, 255], from the weights and the kind alone."""
    if "pixel_range" in KINDS[kind]:
        pixels = pixels / 255 * 127.5 + 127.5  # the oracle maps to [-1, 1]; this makes [0, 1] of it
    weights = {w.path: np.asarray(w.numpy(), np.float64) for w in model.weights}
    logits = reference.mixer(pixels, weights, reference.exact_gelu if "erf" in kind else reference.gelu)
    if "sigmoid" in kind:
        return 1 / (1 + np.exp(-logits))
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def write(model, format, folder, **options):
    """Exports a model, which proves it against Keras; returns the file that its runtime opens."""
    for module in {"onnx": ("tf2onnx", "onnxruntime"), "openvino": ("openvino",)}.get(format, ()):
        pytest.importorskip(module, reason=f"needs extra [{format}]")
    figures = keras_mixer.export(model, format, folder / FORMATS[format].name, **options)
    return figures.path / FORMATS[format].opened


def stored_images():
    """Encoded images of other sizes, whose crops have no fraction that float32 could cut off in another way."""
    photograph = photographs()[0]
    images = [np.repeat(np.repeat(photograph[i : i + 9, i : i + 14], 4, 0), 4, 1) for i in (0, 100, 300)]
    return images, [encode(image, "PNG") for image in images]


@tensorflow_only
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_export_of_every_kind_is_the_oracle(build, registry, rng, tmp_path, kind, format, monkeypatch):
    model = build(kind)
    if format == "web" and kind in tflite_files:  # the page has the same file, which takes seconds to convert
        monkeypatch.setattr(web, "write_tflite", lambda _, path, **options: path.write_bytes(tflite_files[kind]))
    path = write(model, format, tmp_path, **({"version": 10} if format == "saved_model" else {}))
    if format == "tflite":
        tflite_files[kind] = path.read_bytes()
    loaded = keras_mixer.load(path)
    pixels = rng.integers(0, 256, (3, *SIZE, 3), dtype=np.uint8)
    expected = oracle(model, pixels, kind)
    np.testing.assert_allclose(loaded.probabilities(pixels), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"Expected images \(B, 16, 24, 3\), got \(3, 24, 16, 3\)"):
        loaded.probabilities(pixels.swapaxes(1, 2))
    assert loaded.facts.pixel_range == (0, 255)
    assert loaded.output == "probabilities"
    if format == "web":
        content = json.loads((path.parent / "model.json").read_text())
        assert content == json.loads(json.dumps(loaded.as_json()))
    images, encoded = stored_images()
    cropped = np.stack([np.floor(reference.evaluation_crop(image, SIZE, "resize-crop") + 1e-6) for image in images])
    of_images = oracle(model, cropped, kind)
    assert set(loaded.other_inputs) == ({"image_uint8", "image_bytes"} if format == "saved_model" else set())
    if format == "saved_model":
        np.testing.assert_allclose(loaded.other_inputs["image_uint8"](pixels), expected, atol=1e-5)
        np.testing.assert_allclose(loaded.other_inputs["image_bytes"](encoded), of_images, atol=1e-5)
        (path.parent / "2").mkdir()  # the newest is 10, though "2" comes after it as text
    if kind == "sigmoid":  # once: the same export by its other name
        loaded = keras_mixer.load({"saved_model": path.parent, "openvino": path / "model.xml"}.get(format, path))
    (tmp_path / "image.png").write_bytes(encoded[0])
    for given in (tmp_path / "image.png", str(tmp_path / "image.png"), encoded[0], images[0]):
        prediction = loaded.predict(given, top_k=3)
        best = np.argsort(-of_images[0])[:3]
        assert prediction.labels == tuple("abcdefghij"[i] for i in best)
        np.testing.assert_allclose(prediction.probabilities, of_images[0, best], atol=1e-5)
        assert prediction.image == (str(given) if isinstance(given, str | Path) else "")


@tensorflow_only
def test_low_precision_is_close_to_the_oracle(build, rng, tmp_path):
    model = build(kind := "erf GELU")
    pixels = rng.integers(0, 256, (64, *SIZE, 3), dtype=np.uint8)
    for name, limit in {"bfloat16": 0.02, "float16": 5e-4, "dynamic_int8": 0.02, "int8": 0.05}.items():
        format, options = "tflite", {"quantization": name, "min_agreement": 0}
        if name == "bfloat16":
            format, options = "saved_model", {"precision": name, "min_agreement": 0}
        if name == "int8":
            options["representative_images"] = pixels
        path = write(model, format, tmp_path / name, images=pixels, **options)
        assert np.abs(keras_mixer.load(path).probabilities(pixels) - oracle(model, pixels, kind)).max() < limit, name


@tensorflow_only
def test_an_onnx_file_that_no_runtime_reads_is_not_written(tiny_mixer, tmp_path, monkeypatch):
    onnx = pytest.importorskip("onnx", reason="needs extra [onnx]")
    export = keras.Model.export

    def with_an_operation_of_tensorflow(model, path, **options):
        export(model, path, **options)
        written = onnx.load(path)
        written.graph.node[-1].op_type = "Erfc"
        onnx.save(written, path)

    monkeypatch.setattr(keras.Model, "export", with_an_operation_of_tensorflow)
    with pytest.raises(ValueError, match=r"cannot be converted to ONNX: .*Erfc"):
        keras_mixer.export(tiny_mixer(), "onnx", tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.backends
@pytest.mark.parametrize("kind", KINDS)
def test_a_keras_file_of_every_kind_predicts_the_oracle(build, tmp_path, kind):
    model = build(kind)
    model.save(tmp_path / "model.keras")
    (image, *_), (encoded, *_) = stored_images()
    (tmp_path / "image.png").write_bytes(encoded)
    cropped = np.floor(reference.evaluation_crop(image, SIZE, "resize-crop") + 1e-6)
    expected = oracle(model, cropped[None], kind)[0]
    loaded = keras_mixer.load(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(encoded, top_k=10).probabilities, np.sort(expected)[::-1], atol=1e-5)
    np.testing.assert_array_equal(keras_mixer.preprocess_image(tmp_path / "image.png", model), cropped)
    mixer = load_mixer(tmp_path / "model.keras")  # for commands that look inside a model
    logits = keras_mixer.feature_extractor(mixer, ["logits"])
    raw = keras.ops.convert_to_numpy(logits(cropped[None])["logits"])[0].astype(np.float64)
    probabilities = 1 / (1 + np.exp(-raw)) if "sigmoid" in kind else np.exp(raw) / np.exp(raw).sum()
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


@tensorflow_only
def test_the_option_decides_what_logits_mean(build, rng, tmp_path):
    model = build("logits")
    pixels = rng.integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    path = keras_mixer.export_tflite(model, tmp_path / "a.tflite", classifier_activation="sigmoid")
    np.testing.assert_allclose(
        keras_mixer.load(path).probabilities(pixels), oracle(model, pixels, "sigmoid"), atol=1e-5
    )
    with pytest.raises(ValueError, match="classifier_activation='softmax' does not fit a model that ends in sigmoid"):
        keras_mixer.export_tflite(build("sigmoid"), tmp_path / "b.tflite", classifier_activation="softmax")
    with pytest.raises(ValueError, match="classifier_activation='relu' does not fit a model that ends in linear"):
        keras_mixer.export_saved_model(model, tmp_path / "c", classifier_activation="relu")


@tensorflow_only
@pytest.mark.parametrize("pooling", [None, "avg"])
def test_a_model_without_head_exports_its_features_alone(tiny_mixer, registry, rng, tmp_path, pooling):
    model = tiny_mixer(include_top=False, pooling=pooling, include_preprocessing=False)
    figures = keras_mixer.export(model, "saved_model", tmp_path / "features")
    assert (figures.model_accuracy, figures.inputs) == (None, ("image",))
    opened = open_export(figures.path)
    pixels = rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    features = np.asarray(model(pixels / 127.5 - 1))
    expected = features.mean((1, 2)) if pooling is None else features
    np.testing.assert_allclose(opened.run(pixels), expected, atol=1e-5)
    assert (opened.other_inputs, opened.facts.class_names) == ({}, ())
    for format in ("tflite", "onnx", "web"):
        with pytest.raises(ValueError, match="A model without a head has no classes"):
            write(model, format, tmp_path)
    model.save(tmp_path / "model.keras")
    for holder in (figures.path, tmp_path / "model.keras"):
        with pytest.raises(ValueError, match=r"without a head has no classes to predict.*include_top=True"):
            keras_mixer.load(holder)
    assert {item.name for item in tmp_path.iterdir()} <= {"features", "model.keras", "home", "registry"}


@tensorflow_only
def test_what_is_built_on_top_of_a_mixer_is_not_guessed(tiny_mixer, tmp_path):
    body = tiny_mixer(include_top=False, pooling="avg")
    model = keras.Model(body.input, keras.layers.UnitNormalization()(body.output))
    with pytest.raises(ValueError, match="outputs is unknown"):
        keras_mixer.export_saved_model(model, tmp_path / "a")
    with pytest.raises(ValueError, match=r"ends in 'probabilities' \(relu\), so the meaning of its outputs is unknown"):
        keras_mixer.export_saved_model(tiny_mixer(classifier_activation="relu"), tmp_path / "a")
    with pytest.raises(ValueError, match="not a Mixer"):
        keras_mixer.export_saved_model(keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()]), tmp_path)
    assert not list(tmp_path.iterdir())


@tensorflow_only
@pytest.mark.parametrize("fault", ["range", "activation", "bytes", "uint8"])
def test_an_export_that_feeds_its_model_wrongly_is_not_proved(build, rng, tmp_path, monkeypatch, fault):
    """The very faults that a comparison with the exporter's own idea of a model could not see."""
    model = build("logits of pixels in [-1, 1]")

    def incompletely(given, activation):
        if fault == "range":
            return keras.Model(given.input, keras.layers.Activation(activation)(given.output))
        return completed(given, None if fault == "activation" else activation)

    completed = predictor.completed
    monkeypatch.setattr(predictor, "completed", incompletely)
    signatures = saved_model._signatures

    def exchanged(*arguments):
        given = signatures(*arguments)
        if fault in ("bytes", "uint8"):
            import tensorflow as tf

            name = f"image_{fault}"
            argument = "image_bytes" if fault == "bytes" else "image"
            right = given[name]
            given[name] = tf.function(
                lambda x: {key: value[:, ::-1] for key, value in right(x).items()},
                input_signature=[
                    tf.TensorSpec(right.input_signature[0].shape, right.input_signature[0].dtype, argument)
                ],
            )
        return given

    monkeypatch.setattr(saved_model, "_signatures", exchanged)
    with pytest.raises(ExportDiffers, match="differs too much from its model: largest difference") as caught:
        keras_mixer.export(model, "saved_model", tmp_path / "served")
    assert caught.value.parity.inputs == ("image", "image_uint8", "image_bytes")
    assert caught.value.parity.path == tmp_path / "served" / "1.failed"


@pytest.mark.backends
def test_the_pixel_range_travels_and_is_checked(tiny_mixer, tmp_path, rng):
    assert anatomy(tiny_mixer(include_preprocessing=False)).pixel_range == (-1, 1)
    assert anatomy(tiny_mixer()).pixel_range == (0, 255)
    model = tiny_mixer(include_preprocessing=False, pixel_range=(0, 1))
    model.save(tmp_path / "model.keras")
    for found in (
        keras.saving.load_model(tmp_path / "model.keras"),
        keras_mixer.change_resolution(model, (32, 32, 3)),
        tiny_mixer(include_preprocessing=False, weights=tmp_path / "model.keras"),
    ):
        assert anatomy(found).pixel_range == found.pixel_range == (0, 1)
    inside = keras_mixer.load_weights(tiny_mixer(pixel_range=(0, 1)), tmp_path / "model.keras")
    pixels = rng.integers(0, 256, (2, 16, 16, 3)).astype(np.float32)
    expected = keras.ops.convert_to_numpy(model(pixels / 255))
    np.testing.assert_allclose(inside.predict(pixels, verbose=0), expected, atol=1e-5)
    with pytest.raises(ValueError, match=r"pixel_range=\(0.0, 1.0\), but this one has pixel_range=\(-1.0, 1.0\)"):
        keras_mixer.load_weights(tiny_mixer(), tmp_path / "model.keras")
    for wrong in [(1, 0), (0, float("nan")), (0, float("inf"))]:
        with pytest.raises(ValueError, match="two finite numbers in ascending order"):
            tiny_mixer(pixel_range=wrong)


def test_damaged_descriptions_are_refused(tiny_mixer):
    model = tiny_mixer()
    model.trained_on = "my photographs"
    content = Predictor.of(model).as_json()
    read = read_description(json.dumps(content), "here")
    assert read["facts"] == Predictor.of(model).facts
    assert read["facts"].trained_on == "my photographs"
    wrongs = ({"pixel_range": [-1, 1]}, {"output": "logits"}, {"activation": "relu"}, {"class_names": [1]})
    for wrong in (*wrongs, {"trained_on": 1}):
        with pytest.raises(ValueError, match="here: the description of the model is damaged"):
            read_description(json.dumps(content | wrong), "here")

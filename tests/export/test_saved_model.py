import os
import struct

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, evaluated, photographs, turned
from PIL import Image

import keras_mixer
from keras_mixer.export.runtimes import open_export
from keras_mixer.export.saved_model import REQUESTS

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="written by TensorFlow")


@pytest.fixture(scope="module")
def exported(classifier, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "digits"
    return keras_mixer.export_saved_model(classifier, folder, top_k=3, evaluation_crop="resize-crop")


@pytest.fixture(scope="module")
def signatures(exported):
    loaded = tf.saved_model.load(str(exported))
    yield loaded.signatures
    del loaded  # until here its variables are alive


def test_every_signature_answers_like_the_model(classifier, exported, signatures, pixels):
    assert exported.parts[-2:] == ("digits", "1")
    weights = exported / "variables" / "variables.data-00000-of-00001"
    assert weights.stat().st_size < 1.5 * 4 * classifier.count_params()  # each weight once
    expected = np.asarray(classifier(pixels))
    for count in (1, 5):
        for name, dtype in {"serving_default": np.float32, "image_uint8": np.uint8}.items():
            answer = signatures[name](image=pixels[:count].astype(dtype))
            np.testing.assert_allclose(answer["probabilities"], expected[:count], atol=1e-5)
            np.testing.assert_array_equal(answer["classes"], np.argsort(-expected[:count], axis=1)[:, :3])
            labels = [[f"class {i}".encode() for i in row] for row in np.asarray(answer["classes"])]
            np.testing.assert_array_equal(answer["labels"], labels)
        features = signatures["features"](image=pixels[:count])["pre_logits"]
        extractor = keras_mixer.feature_extractor(classifier, ["pre_logits"])
        np.testing.assert_allclose(features, extractor(pixels[:count])["pre_logits"], atol=1e-5)


def test_an_export_in_bfloat16_stores_and_computes_in_it_and_answers_in_float32(
    classifier, signatures, pixels, tmp_path
):
    path = keras_mixer.export_saved_model(classifier, tmp_path, precision="bfloat16")
    types = tf.train.load_checkpoint(str(path / "variables" / "variables")).get_variable_to_dtype_map()
    weights = [dtype for dtype in types.values() if dtype in (tf.float32, tf.bfloat16)]
    assert weights.count(tf.float32) == len(classifier.get_layer("head").weights)  # and no second copy in float32
    assert len(weights) == len(classifier.weights)
    loaded = tf.saved_model.load(str(path))
    answer = loaded.signatures["serving_default"](image=pixels)["probabilities"]
    assert answer.dtype == loaded.signatures["features"](image=pixels)["pre_logits"].dtype == tf.float32
    assert 1e-4 < np.abs(answer - signatures["serving_default"](image=pixels)["probabilities"]).max() < 0.05


def test_encoded_images_are_decoded_and_cropped_inside(classifier, signatures):
    photograph = photographs()[0]
    files = {
        "JPEG": encode(photograph, "JPEG"),
        "gray": encode(photograph, "PNG", "L"),
        "palette": encode(photograph, "PNG", "P"),
        "alpha": encode(photograph[:90, :70], "PNG", "RGBA"),
        "16 bit": encode(Image.fromarray(photograph[..., 0].astype(np.uint16) * 257), "PNG"),
        "huge": encode(np.tile(photograph, (6, 5, 1)), "JPEG"),  # 2562 x 3200
        "one pixel": encode(photograph[:1, :1], "PNG"),
        "tall": encode(photograph[:, :9], "PNG"),
        "turned": turned(photograph),
    }
    answer = signatures["image_bytes"](image_bytes=tf.constant([*files.values()]))["probabilities"]
    crop = "resize-crop"  # not the model's own
    images = np.stack([evaluated(file, (16, 24), crop) for file in files.values()]).astype(np.float32)
    np.testing.assert_allclose(answer, classifier(images), atol=1e-5)
    np.testing.assert_allclose(answer[-1], answer[0], atol=1e-6)  # turning is the client's business


def test_images_that_cannot_be_decoded_are_named_by_their_indices(signatures):
    good, black = encode(photographs()[0], "JPEG"), np.zeros((9, 9, 3), np.uint8)
    bomb = bytearray(encode(black, "PNG"))
    bomb[16:24] = struct.pack(">II", 50_000, 50_000)
    for batch, indices in [
        ([good, b"no image", good, good[:300], b""], "[1 3 4]"),
        ([encode(black, "GIF"), encode(black, "BMP"), encode(black, "WEBP"), good, bytes(bomb)], "[0 1 2 4]"),
    ]:
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            signatures["image_bytes"](image_bytes=tf.constant(batch))
        assert "cannot be decoded (expected JPEG or PNG files of at most" in str(caught.value)
        assert f"their indices in the batch:] {indices}" in str(caught.value)
    assert signatures["image_bytes"](image_bytes=tf.constant([], tf.string))["probabilities"].shape == (0, 10)


def test_a_server_refuses_pixels_of_another_shape(exported):
    """Like a server, the session compares no shapes: the graph has to."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        types = {"serving_default": "float32", "features": "float32", "image_uint8": "uint8"}
        fed = {name: tf.compat.v1.placeholder(dtype, name=name) for name, dtype in types.items()}
        free = {f"{name}_image": placeholder for name, placeholder in fed.items()}
        signatures = tf.compat.v1.saved_model.load(session, ["serve"], str(exported), input_map=free).signature_def
        for name, placeholder in fed.items():
            for output in (output.name for output in signatures[name].outputs.values()):
                for count in (0, 1, 3):
                    assert len(session.run(output, {placeholder: np.zeros((count, 16, 24, 3))})) == count
                for shape in [(1, 17, 25, 3), (1, 24, 16, 3), (1, 16, 24, 4), (16, 24, 3)]:
                    with pytest.raises(tf.errors.InvalidArgumentError, match=r"not .* expected shape \[\?,16,24,3\]"):
                        session.run(output, {placeholder: np.zeros(shape)})


def test_warm_up_requests_are_what_tensorflow_serving_reads(exported, signatures):
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2", reason="needs tensorflow-serving-api")
    seen = []
    for record in tf.data.TFRecordDataset(str(exported / REQUESTS), buffer_size=2**18):
        request = logs.PredictionLog.FromString(record.numpy()).predict_log.request
        assert request.model_spec.name == "digits"
        seen.append(request.model_spec.signature_name)
        inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        assert len(next(iter(signatures[seen[-1]](**inputs).values()))) == 1
    assert set(seen) == set(signatures)


def test_versions_count_up_and_nothing_is_overwritten_or_guessed(classifier, tiny_mixer, tmp_path, monkeypatch):
    for version in ("1", "7"):
        (tmp_path / version).mkdir()
    assert keras_mixer.export_saved_model(classifier, tmp_path).name == "8"
    body = tiny_mixer(include_top=False, pooling="avg", num_blocks=1)
    unknown = keras.Model(body.input, keras.layers.UnitNormalization()(body.output))
    flat = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
    for model, options, message in [
        (classifier, {"version": 7}, "7 exists already and is not overwritten"),
        (classifier, {"version": 0}, "version must be greater than or equal to 1, got 0"),
        (classifier, {"precision": "float16"}, "precision must be 'float32' or 'bfloat16', got 'float16'"),
        (classifier, {"classifier_activation": "relu"}, "='relu' does not fit a model that ends in softmax"),
        (unknown, {}, "ends in .* so the meaning of its outputs is unknown"),
        (flat, {}, "not a Mixer"),
    ]:
        with pytest.raises(ValueError, match=message):
            keras_mixer.export_saved_model(model, tmp_path, **options)
    monkeypatch.setattr(tf.saved_model, "save", lambda module, folder, signatures: os.makedirs(folder) or 1 / 0)
    with pytest.raises(ZeroDivisionError):  # and nothing half written is left
        keras_mixer.export_saved_model(classifier, tmp_path)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["1", "7", "8"]


def test_a_mixed_precision_model_of_gray_images_is_exported_in_float32_without_image_bytes(tiny_mixer, rng, tmp_path):
    options = {"input_shape": (16, 24, 1), "num_blocks": 1}
    exact = tiny_mixer(**options)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = tiny_mixer(**options)
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(exact.get_weights())
    loaded = open_export(keras_mixer.export_saved_model(mixed, tmp_path, class_names=list("abcdefghij")))
    pixels = rng.integers(0, 256, (5, 16, 24, 1)).astype(np.float32)
    np.testing.assert_allclose(loaded.inputs["image"](pixels), exact(pixels), atol=1e-5)
    assert (set(loaded.inputs), loaded.facts.class_names) == ({"image", "image_uint8"}, tuple("abcdefghij"))

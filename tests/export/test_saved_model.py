import json
import os
import struct

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, evaluated, photographs, turned
from PIL import Image

import keras_mixer
from keras_mixer.export.saved_model import REQUESTS

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="written by TensorFlow")


@pytest.fixture(scope="module")
def exported(classifier, tmp_path_factory):
    """One export for all tests that only read it."""
    folder = tmp_path_factory.mktemp("exported") / "digits"
    return keras_mixer.export_saved_model(classifier, folder, top_k=3, evaluation_crop="resize-crop")


@pytest.fixture(scope="module")
def signatures(exported):
    loaded = tf.saved_model.load(str(exported))
    yield loaded.signatures
    del loaded  # until here its variables are alive


def image_files():
    """Encoded images of every kind that a camera, a scanner or a browser may send."""
    photograph = photographs()[0]
    deep = Image.fromarray(photograph[..., 0].astype(np.uint16) * 257)
    huge = np.tile(photograph, (6, 5, 1))  # 2562 x 3200
    return {
        "JPEG": encode(photograph, "JPEG"),
        "PNG": encode(photograph, "PNG"),
        "grey": encode(photograph, "PNG", "L"),
        "palette": encode(photograph, "PNG", "P"),
        "alpha": encode(photograph[:90, :70], "PNG", "RGBA"),
        "16 bit": encode(deep, "PNG"),
        "huge": encode(huge, "JPEG"),
        "one pixel": encode(photograph[:1, :1], "PNG"),
        "tall": encode(photograph[:, :9], "PNG"),
        "turned 6": turned(photograph, 6),
    }


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
    classifier, exported, signatures, pixels, tmp_path
):
    path = keras_mixer.export_saved_model(classifier, tmp_path, precision="bfloat16")
    types = tf.train.load_checkpoint(str(path / "variables" / "variables")).get_variable_to_dtype_map()
    weights = [dtype for dtype in types.values() if dtype in (tf.float32, tf.bfloat16)]
    assert weights.count(tf.float32) == len(classifier.get_layer("head").weights)  # and no second copy in float32
    assert len(weights) == len(classifier.weights)
    loaded = tf.saved_model.load(str(path))
    answer = loaded.signatures["serving_default"](image=pixels)["probabilities"]
    expected = np.asarray(signatures["serving_default"](image=pixels)["probabilities"])
    assert answer.dtype == tf.float32
    assert 1e-4 < np.abs(answer - expected).max() < 0.05
    assert loaded.signatures["features"](image=pixels)["pre_logits"].dtype == tf.float32
    described = [json.loads((one / "assets.extra" / "keras_mixer.json").read_text()) for one in (path, exported)]
    assert [one["precision"] for one in described] == ["bfloat16", "float32"]


def test_all_signatures_share_one_graph_of_the_model(exported):
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    graph = SavedModel.FromString((exported / "saved_model.pb").read_bytes()).meta_graphs[0].graph_def
    operations = [node.op for function in graph.library.function for node in function.node_def]
    assert operations.count("Softmax") == operations.count("DecodeImage") == 1


def test_features_without_a_pool_are_float32_in_every_precision(tiny_mixer, tmp_path):
    model = tiny_mixer(num_blocks=1, include_top=False)
    loaded = tf.saved_model.load(str(keras_mixer.export_saved_model(model, tmp_path, precision="bfloat16")))
    image = np.zeros((1, 16, 16, 3), np.float32)
    assert loaded.signatures["features"](image=image)["pre_logits"].numpy().dtype == np.float32


def test_encoded_images_are_decoded_and_cropped_inside(classifier, signatures):
    crop = "resize-crop"  # not the model's own
    files = image_files()
    answer = signatures["image_bytes"](image_bytes=tf.constant([*files.values()]))["probabilities"]
    images = np.stack([evaluated(file, (16, 24), crop) for file in files.values()]).astype(np.float32)
    np.testing.assert_allclose(answer, classifier(images), atol=1e-5)
    by_name = dict(zip(files, answer.numpy(), strict=True))
    np.testing.assert_array_equal(by_name["turned 6"], by_name["JPEG"])  # turning is the client's business


def test_images_that_cannot_be_decoded_are_named_by_their_indices(signatures):
    signature = signatures["image_bytes"]
    good = image_files()["JPEG"]
    others = [encode(np.zeros((9, 9, 3), np.uint8), format) for format in ("GIF", "BMP", "WEBP")]
    bomb = bytearray(encode(np.zeros((9, 9), np.uint8), "PNG"))
    bomb[16:24] = struct.pack(">II", 50_000, 50_000)
    for batch, indices in [
        ([good, b"no image", good, good[:300]], "[1 3]"),
        ([b""], "[0]"),
        ([*others, good, bytes(bomb)], "[0 1 2 4]"),
    ]:
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            signature(image_bytes=tf.constant(batch))
        assert "cannot be decoded" in str(caught.value)
        assert f"their indices in the batch:] {indices}" in str(caught.value)
    assert signature(image_bytes=tf.constant([], tf.string))["probabilities"].shape == (0, 10)


@pytest.mark.parametrize("include_top", [True, False])
def test_a_server_refuses_pixels_of_another_shape(tiny_mixer, tmp_path, include_top):
    """Like a server, the session compares no shapes: the graph has to."""
    model = tiny_mixer(num_blocks=1, input_shape=(16, 24, 3), include_top=include_top)
    path = keras_mixer.export_saved_model(model, tmp_path)
    names = ["serving_default", "features", *(["image_uint8"] if include_top else [])]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        fed = {name: tf.compat.v1.placeholder("uint8" if "uint8" in name else "float32", name=name) for name in names}
        free = {f"{name}_image": placeholder for name, placeholder in fed.items()}
        signatures = tf.compat.v1.saved_model.load(session, ["serve"], str(path), input_map=free).signature_def
        for name, placeholder in fed.items():
            for output in (output.name for output in signatures[name].outputs.values()):
                for count in (0, 1, 3):
                    assert len(session.run(output, {placeholder: np.zeros((count, 16, 24, 3))})) == count
                sides = [(17, 25, 3), (24, 16, 3), (8, 48, 3), (16, 24, 1), (16, 24, 4)]
                for shape in [*((1, *side) for side in sides), (16, 24, 3)]:
                    with pytest.raises(tf.errors.InvalidArgumentError, match=r"not .* expected shape \[\?,16,24,3\]"):
                        session.run(output, {placeholder: np.zeros(shape)})


def test_what_does_not_take_rgb_images_has_no_signature_for_them(tiny_mixer, tmp_path):
    model = tiny_mixer(input_shape=(16, 16, 1))
    path = keras_mixer.export_saved_model(model, tmp_path / "grey")
    assert set(tf.saved_model.load(str(path)).signatures) == {"serving_default", "image_uint8", "features"}


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


def test_versions_count_up_and_are_never_overwritten(classifier, tmp_path):
    for version in ("1", "7"):
        (tmp_path / version).mkdir()
    assert keras_mixer.export_saved_model(classifier, tmp_path).name == "8"
    for options, message in [
        ({"version": 7}, r"7 exists already .* use version 9"),
        ({"version": 0}, "positive"),
        ({"top_k": 0}, "top_k must be at least 1"),
        ({"precision": "float16"}, "precision must be 'float32' or 'bfloat16', got 'float16'"),
    ]:
        with pytest.raises(ValueError, match=message):
            keras_mixer.export_saved_model(classifier, tmp_path, **options)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["1", "7", "8"]


def test_a_failed_export_leaves_nothing_half_written(classifier, tmp_path, monkeypatch):
    def fail(module, folder, signatures):
        os.makedirs(folder)
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        keras_mixer.export_saved_model(classifier, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_mixed_precision_model_is_exported_in_float32(classifier, pixels, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = keras_mixer.Mixer(4, 2, 32, 16, 64, input_shape=(16, 24, 3), classes=10)
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(classifier.get_weights())
    path = keras_mixer.export_saved_model(mixed, tmp_path, class_names=list("abcdefghij"), evaluation_crop="resize")
    answer = tf.saved_model.load(str(path)).signatures["serving_default"](image=pixels)
    expected = keras.ops.convert_to_numpy(classifier(pixels))
    np.testing.assert_allclose(answer["probabilities"], expected, atol=1e-5)
    assert answer["labels"].numpy()[0, 0].decode() == "abcdefghij"[expected[0].argmax()]
    description = json.loads((path / "assets.extra" / "keras_mixer.json").read_text())
    assert description["class_names"] == list("abcdefghij")
    assert description["evaluation_crop"] == "resize"

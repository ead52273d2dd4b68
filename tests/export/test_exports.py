import json
import zipfile

import keras
import numpy as np
import pytest
from image_files import encode, photographs

import keras_mixer
from keras_mixer.data.preprocessing import evaluation_image

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
tensorflow_only = pytest.mark.skipif(not ON_TENSORFLOW, reason="exports are written on TensorFlow")


@pytest.fixture
def classifier(tiny_mixer):
    model = tiny_mixer(input_shape=(16, 24, 3))
    model.class_names = tuple(f"class {i}" for i in range(10))
    model.evaluation_crop = "resmall-crop"
    return model


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (5, 16, 24, 3)).astype(np.float32)


def load(path):
    import tensorflow as tf

    return tf.saved_model.load(str(path))


@tensorflow_only
def test_saved_model_answers_like_the_model(classifier, pixels, tmp_path):
    path = keras_mixer.export_saved_model(classifier, tmp_path / "digits", top_k=3)
    assert path == tmp_path / "digits" / "1"
    loaded = load(path)
    expected = np.asarray(classifier(pixels))
    for count in (1, 5):
        answer = loaded.signatures["serving_default"](image=pixels[:count])
        np.testing.assert_allclose(answer["probabilities"], expected[:count], atol=1e-5)
        np.testing.assert_array_equal(answer["classes"], np.argsort(-expected[:count], axis=1)[:, :3])
        labels = [[f"class {i}".encode() for i in row] for row in np.asarray(answer["classes"])]
        np.testing.assert_array_equal(answer["labels"], labels)


@tensorflow_only
def test_saved_model_decodes_and_crops_encoded_images_itself(classifier, tmp_path):
    import tensorflow as tf

    loaded = load(keras_mixer.export_saved_model(classifier, tmp_path / "digits"))
    photograph = photographs()[0]
    files = [encode(photograph, "JPEG"), encode(photograph, "PNG", "L"), encode(photograph[:9, :7], "PNG", "RGBA")]
    answer = loaded.signatures["image_bytes"](image_bytes=tf.constant(files))["probabilities"]
    images = np.stack([evaluation_image(file, (16, 24), "resmall-crop") for file in files]).astype(np.float32)
    np.testing.assert_allclose(answer, classifier(images), atol=1e-5)


@tensorflow_only
def test_versions_count_up_and_are_never_overwritten(classifier, tmp_path):
    assert keras_mixer.export_saved_model(classifier, tmp_path).name == "1"
    assert keras_mixer.export_saved_model(classifier, tmp_path, version=7).name == "7"
    assert keras_mixer.export_saved_model(classifier, tmp_path).name == "8"
    with pytest.raises(ValueError, match=r"7 exists already .* use version 9"):
        keras_mixer.export_saved_model(classifier, tmp_path, version=7)
    with pytest.raises(ValueError, match="positive"):
        keras_mixer.export_saved_model(classifier, tmp_path, version=0)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["1", "7", "8"]


@tensorflow_only
def test_a_failed_export_leaves_nothing_half_written(classifier, tmp_path, monkeypatch):
    import tensorflow as tf

    def fail(*arguments, **options):
        raise OSError("disk full")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        keras_mixer.export_saved_model(classifier, tmp_path)
    assert not list(tmp_path.iterdir())


def interpret(path):
    from keras_mixer.serving.predictor import open_interpreter

    return open_interpreter(path).get_signature_runner("serving_default")


@tensorflow_only
@pytest.mark.parametrize(("quantization", "tolerance"), [(None, 1e-5), ("float16", 1e-3), ("dynamic_int8", 0.1)])
def test_tflite_answers_like_the_model(classifier, pixels, tmp_path, quantization, tolerance):
    path = keras_mixer.export_tflite(classifier, tmp_path / "digits.tflite", quantization=quantization, batch_size=5)
    answer = interpret(path)(image=pixels)["probabilities"]
    np.testing.assert_allclose(answer, classifier(pixels), atol=tolerance)


@tensorflow_only
def test_full_int8_takes_uint8_pixels_and_gives_uint8_probabilities(classifier, pixels, tmp_path):
    path = keras_mixer.export_tflite(
        classifier, tmp_path / "digits.tflite", quantization="int8", representative_images=pixels
    )
    runner = interpret(path)
    assert runner.get_input_details()["image"]["dtype"] is np.uint8
    answer = runner(image=pixels[:1].astype(np.uint8))["probabilities"]
    assert answer.dtype == np.uint8
    scale, zero = runner.get_output_details()["probabilities"]["quantization"]
    np.testing.assert_allclose((answer.astype(float) - zero) * scale, classifier(pixels[:1]), atol=0.2)


@tensorflow_only
def test_tflite_carries_class_names_and_preprocessing(classifier, tmp_path):
    path = keras_mixer.export_tflite(classifier, tmp_path / "digits.tflite")
    with zipfile.ZipFile(path) as archive:
        assert archive.read("labels.txt").decode().splitlines() == list(classifier.class_names)
        description = json.loads(archive.read("keras_mixer.json"))
    assert description["evaluation_crop"] == "resmall-crop"
    assert description["input_shape"] == [16, 24, 3]


@tensorflow_only
def test_a_mixed_precision_model_exports_in_float32(classifier, pixels, tmp_path):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = keras_mixer.Mixer(4, 2, 32, 16, 64, input_shape=(16, 24, 3), classes=10)
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(classifier.get_weights())
    path = keras_mixer.export_tflite(mixed, tmp_path / "mixed.tflite", batch_size=5)
    np.testing.assert_allclose(interpret(path)(image=pixels)["probabilities"], classifier(pixels), atol=1e-5)


@tensorflow_only
def test_unfit_arguments_are_refused(classifier, tiny_mixer, pixels, tmp_path):
    export = keras_mixer.export_tflite
    with pytest.raises(ValueError, match="float16, dynamic_int8, int8"):
        export(classifier, tmp_path / "a.tflite", quantization="int4")
    with pytest.raises(ValueError, match="representative_images are needed"):
        export(classifier, tmp_path / "a.tflite", quantization="int8")
    with pytest.raises(ValueError, match="representative_images are needed"):
        export(classifier, tmp_path / "a.tflite", representative_images=pixels)
    with pytest.raises(ValueError, match=r"ends in \.tflite"):
        export(classifier, tmp_path / "a.lite")
    with pytest.raises(ValueError, match=r"9 class names .* 10 classes"):
        export(classifier, tmp_path / "a.tflite", class_names=list("abcdefghi"))
    with pytest.raises(ValueError, match="Unknown evaluation crop 'centre'"):
        keras_mixer.export_saved_model(classifier, tmp_path / "s", evaluation_crop="centre")
    with pytest.raises(ValueError, match="Only a classifier"):
        export(tiny_mixer(include_top=False), tmp_path / "a.tflite")
    (tmp_path / "a.tflite").write_bytes(b"precious")
    with pytest.raises(ValueError, match="not overwritten"):
        export(classifier, tmp_path / "a.tflite")
    assert [item.name for item in tmp_path.iterdir()] == ["a.tflite"]


@pytest.mark.backends
@pytest.mark.skipif(ON_TENSORFLOW, reason="TensorFlow can export")
def test_other_backends_are_told_how_to_export(classifier, tmp_path):
    with pytest.raises(ValueError, match="KERAS_BACKEND=tensorflow"):
        keras_mixer.export_saved_model(classifier, tmp_path)

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, evaluated, photographs, turned

import keras_mixer
from keras_mixer.export.loading import load_predictor

pytestmark = pytest.mark.backends

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


@pytest.fixture
def classifier(tiny_mixer):
    model = tiny_mixer(input_shape=(16, 24, 3))
    model.class_names = tuple("abcdefghij")
    model.evaluation_crop = "resize-crop"
    return model


@pytest.fixture
def photograph(tmp_path):
    path = tmp_path / "photograph.jpg"
    path.write_bytes(turned(photographs()[0]))
    return path


def write(model, kind, folder):
    if kind == "keras":
        model.save(folder / "some.keras")
        return folder / "some.keras"
    if kind == "run":
        (folder / "run").mkdir()
        model.save(folder / "run" / "model.keras")
        return folder / "run"
    if kind == "tflite":
        return keras_mixer.export_tflite(model, folder / "some.tflite")
    keras_mixer.export_saved_model(tiny_copy_with_zero_head(model), folder / "served", version=1)
    version = keras_mixer.export_saved_model(model, folder / "served", version=10)
    return version if kind == "saved_model version" else folder / "served"


def tiny_copy_with_zero_head(model):
    copy = keras.models.clone_model(model)
    copy.class_names, copy.evaluation_crop = model.class_names, model.evaluation_crop
    return copy


KINDS = ["keras", "run", *(["tflite", "saved_model version", "saved_model newest"] if ON_TENSORFLOW else [])]


@pytest.mark.parametrize("kind", KINDS)
def test_every_holder_of_a_model_predicts_the_same(classifier, photograph, tmp_path, kind):
    upright = encode(np.rot90(tf.io.decode_jpeg(photograph.read_bytes()).numpy(), -1), "PNG")
    image = np.asarray(evaluated(upright, (16, 24), "resize-crop"))[None]
    expected = keras.ops.convert_to_numpy(classifier(image))[0]
    prediction = load_predictor(write(classifier, kind, tmp_path)).predict(photograph, top_k=3)
    best = np.argsort(-expected)[:3]
    assert prediction.image == str(photograph)
    assert prediction.labels == tuple("abcdefghij"[i] for i in best)
    np.testing.assert_allclose(prediction.probabilities, expected[best], atol=1e-5)


def test_useless_paths_are_refused(classifier, photograph, tmp_path):
    with pytest.raises(FileNotFoundError, match="no model at"):
        load_predictor(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="does not contain a model"):
        load_predictor(tmp_path / "empty")
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="did not finish"):
        load_predictor(tmp_path / "empty")
    with pytest.raises(ValueError, match=r"nor a \.keras file"):
        load_predictor(photograph)
    (tmp_path / "foreign.tflite").write_bytes(b"TFL3")
    with pytest.raises(ValueError, match="not written by this package"):
        load_predictor(tmp_path / "foreign.tflite")


def test_useless_images_are_refused(classifier, tmp_path):
    predictor = load_predictor(write(classifier, "keras", tmp_path))
    with pytest.raises(FileNotFoundError, match="no image file"):
        predictor.predict(tmp_path / "nothing.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"bad\.jpg: not an image that Pillow can read"):
        predictor.predict(tmp_path / "bad.jpg")


def test_a_batch_that_cannot_be_in_range_is_remarked_on_but_a_black_file_is_not(classifier, tmp_path, rng):
    predictor = load_predictor(write(classifier, "keras", tmp_path))
    images = rng.integers(0, 256, (3, 16, 24, 3))
    predictor.classify(images)
    for scaled in (images / 255, images / 127.5 - 1):
        with pytest.warns(UserWarning, match=r"the model expects 0 \(black\) to 255 \(white\)"):
            predictor.classify(scaled)
    black = rng.integers(0, 3, (16, 24, 3), dtype=np.uint8)  # the noise of a camera behind its cap
    (tmp_path / "black.png").write_bytes(encode(black, "PNG"))
    predictor.predict(tmp_path / "black.png")

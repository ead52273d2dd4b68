"""The models that come with the repository do what README says of them."""

import re
from pathlib import Path

import keras
import pytest

from keras_mixer.data.batches import evaluation_batches
from keras_mixer.data.sources import CLOTHES, load_source
from keras_mixer.export.runtimes import load

ROOT = Path(__file__).parents[1]
SAVED = ROOT / "saved_models"

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="files of TensorFlow's own runtimes")


def test_shipped_models_have_the_accuracy_that_is_stated():
    test, readme = load_source("digits").test, (SAVED / "README.md").read_text(encoding="utf-8")
    stated = tuple(map(int, re.search(r"(\d+) of the (\d+) test images", readme).groups()))
    for name in ("mixer_digits", "mixer_digits.tflite"):
        predictor = load(SAVED / name)
        size, crop = predictor.input_shape[:2], predictor.facts.evaluation_crop
        batches = evaluation_batches(test, image_size=size, batch_size=test.size, crop=crop)
        ((images, labels),) = batches.as_numpy_iterator()
        right = int((predictor.probabilities(images).argmax(1) == labels).sum())
        assert (right, len(labels)) == stated


def test_shipped_models_know_the_pictures_of_the_documentation():
    for name, picture, label in [
        ("mixer_digits", "seven.png", "7"),
        ("mixer_fashion", "sneaker.png", "Sneaker"),
        ("mixer_fashion.tflite", "sneaker.png", "Sneaker"),
    ]:
        predictor = load(SAVED / name)
        prediction = predictor.predict(ROOT / "docs" / "images" / picture)
        assert prediction.labels[0] == label
        assert prediction.probabilities[0] > 0.8
    assert (predictor.facts.class_names, predictor.facts.trained_on) == (CLOTHES, "fashion_mnist")


def test_tensorflow_serving_is_pointed_at_models_that_are_there():
    config = (SAVED / "models.config").read_text(encoding="utf-8")
    paths = dict(zip(re.findall(r'name: "(.*)"', config), re.findall(r'base_path: "(.*)"', config), strict=True))
    assert paths == {name: f"/models/{name}" for name in ("mixer_digits", "mixer_fashion")}
    assert all((SAVED / name / "1" / "saved_model.pb").is_file() for name in paths)
    line = re.search(r"docker run .*", (SAVED / "README.md").read_text(encoding="utf-8"))[0]
    assert '-v "$PWD/saved_models:/models"' in line
    assert all((SAVED / name).is_file() for name in re.findall(r"/models/(\S+\.config)", line))

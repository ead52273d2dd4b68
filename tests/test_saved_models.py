"""The models that come with the repository do what README says of them."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_mixer.data.batches import evaluation_batches
from keras_mixer.data.sources import CLOTHES, load_source
from keras_mixer.export.runtimes import load

ROOT = Path(__file__).parents[1]
SAVED = ROOT / "saved_models"

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="files of TensorFlow's own runtimes")


@pytest.mark.parametrize("name", ["mixer_digits", "mixer_digits.tflite"])
def test_shipped_models_have_the_accuracy_that_is_stated(name):
    predictor = load(SAVED / name)
    test = load_source("digits").test
    size, crop = predictor.input_shape[:2], predictor.facts.evaluation_crop
    batches = evaluation_batches(test, image_size=size, batch_size=1, crop=crop)
    right = [
        predictor.probabilities(images.numpy().astype(np.float32))[0].argmax() == labels[0]
        for images, labels in batches
    ]
    stated = re.search(r"(\d+) of the (\d+) test images", (SAVED / "README.md").read_text(encoding="utf-8"))
    assert (sum(map(int, right)), len(right)) == tuple(map(int, stated.groups()))
    assert predictor.facts.class_names == tuple("0123456789")


@pytest.mark.parametrize(
    ("name", "picture", "label"),
    [
        ("mixer_digits", "seven.png", "7"),
        ("mixer_fashion", "sneaker.png", "Sneaker"),
        ("mixer_fashion.tflite", "sneaker.png", "Sneaker"),
    ],
)
def test_shipped_models_know_the_pictures_of_the_documentation(name, picture, label):
    predictor = load(SAVED / name)
    prediction = predictor.predict(ROOT / "docs" / "images" / picture)
    assert prediction.labels[0] == label
    assert prediction.probabilities[0] > 0.8
    if label == "Sneaker":
        assert predictor.facts.class_names == CLOTHES
        assert predictor.facts.trained_on == "fashion_mnist"


@pytest.mark.parametrize("model", ["mixer_digits", "mixer_fashion"])
def test_shipped_models_are_small(model):
    files = [path for path in SAVED.glob(f"{model}*/**/*") if path.is_file()] + list(SAVED.glob(f"{model}.*"))
    assert len(files) >= 6
    assert sum(path.stat().st_size for path in files) < 4e6


def test_tensorflow_serving_is_pointed_at_models_that_are_there():
    config = (SAVED / "models.config").read_text(encoding="utf-8")
    models = dict(zip(re.findall(r'name: "(.*)"', config), re.findall(r'base_path: "(.*)"', config), strict=True))
    assert models == {name: f"/models/{name}" for name in ("mixer_digits", "mixer_fashion")}
    for path in models.values():
        assert (SAVED / Path(path).relative_to("/models") / "1" / "saved_model.pb").is_file()
    line = re.search(r"docker run .*", (SAVED / "README.md").read_text(encoding="utf-8"))[0]
    for name in re.findall(r"/models/(\S+\.config)", line):
        assert (SAVED / name).is_file()
    assert '-v "$PWD/saved_models:/models"' in line

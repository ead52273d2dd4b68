"""The names of ImageNet classes, and `decode_predictions`."""

from importlib import resources

import keras
import numpy as np
import pytest

import keras_mixer
from keras_mixer.weights.imagenet_classes import SUBSETS, imagenet_classes


def test_the_1000_classes_are_in_the_order_of_the_challenge():
    classes = imagenet_classes(1000)
    folder = resources.files("tensorflow_datasets") / "datasets" / "imagenet2012"
    assert [wordnet_id for wordnet_id, _ in classes] == (folder / "labels.txt").read_text().split()
    known = {0: ("n01440764", "tench"), 134: ("n02012849", "crane"), 517: ("n03126707", "crane")}
    assert {i: classes[i] for i in known} == known


def test_the_21843_classes_are_googles_and_every_subset_is_complete_and_sorted():
    classes = imagenet_classes(21843)
    assert (classes[0], classes[-1]) == (("n00004475", "organism"), ("n15102894", "knothole"))
    assert set(imagenet_classes(1000)) - set(classes) == {("n04399382", "teddy")}
    assert set(imagenet_classes(11221)) < set(classes)
    for count in SUBSETS:
        ids = [wordnet_id for wordnet_id, _ in imagenet_classes(count)]
        assert len(set(ids)) == count
        assert ids == sorted(ids)


def test_predictions_are_decoded_as_keras_does(rng, monkeypatch):
    table = {str(i): list(pair) for i, pair in enumerate(imagenet_classes(1000))}
    keras_decode = keras.applications.imagenet_utils.decode_predictions
    monkeypatch.setitem(keras_decode.__globals__, "CLASS_INDEX", table)  # Keras would download it
    probabilities = rng.random((3, 1000)).astype("float32")
    for top in (1, 5, 2000):
        given = keras.ops.convert_to_tensor(probabilities) if top == 5 else probabilities
        assert keras_mixer.decode_predictions(given, top) == keras_decode(probabilities, top)
    (only,) = keras_mixer.decode_predictions(np.eye(1, 21843, 21842), top=1)
    assert only == [("n15102894", "knothole", 1.0)]
    with pytest.raises(ValueError, match=r"of 1000 or 21843 or 11221 classes, got shape \(2, 999\)"):
        keras_mixer.decode_predictions(np.zeros((2, 999)))
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        keras_mixer.decode_predictions(probabilities, top=0)

"""The names of ImageNet classes, and `decode_predictions`."""

from importlib import resources

import keras
import numpy as np
import pytest
from weight_files import linen

import keras_mixer
from keras_mixer.export.predictor import Predictor
from keras_mixer.imagenet_classes import SUBSETS, imagenet_classes
from keras_mixer.weights import published


def test_the_1000_classes_are_in_the_order_of_the_challenge():
    classes = imagenet_classes(1000)
    folder = resources.files("tensorflow_datasets") / "datasets" / "imagenet2012"
    assert [wordnet_id for wordnet_id, _ in classes] == (folder / "labels.txt").read_text().split()
    known = {0: ("n01440764", "tench"), 2: ("n01484850", "great_white_shark"), 281: ("n02123045", "tabby")}
    known |= {134: ("n02012849", "crane"), 517: ("n03126707", "crane"), 999: ("n15075141", "toilet_tissue")}
    assert {i: classes[i] for i in known} == known


def test_the_21843_classes_are_googles_and_every_subset_is_complete_and_sorted():
    classes = imagenet_classes(21843)
    assert classes[:2] == (("n00004475", "organism"), ("n00005787", "benthos"))
    assert classes[-1] == ("n15102894", "knothole")
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
        expected = keras_decode(probabilities, top)
        assert keras_mixer.decode_predictions(probabilities, top) == expected
        assert keras_mixer.decode_predictions(keras.ops.convert_to_tensor(probabilities), top) == expected
    assert len(expected[0]) == 1000
    (only,) = keras_mixer.decode_predictions(np.eye(1, 21843, 21842), top=1)
    assert only == [("n15102894", "knothole", 1.0)]


def test_other_shapes_are_rejected():
    for shape in ((1000,), (2, 999), (1, 1, 1000)):
        with pytest.raises(ValueError, match=r"\(images, 1000\) for ImageNet-1k.*got \("):
            keras_mixer.decode_predictions(np.zeros(shape))
    with pytest.raises(ValueError, match="top must be at least 1, got 0"):
        keras_mixer.decode_predictions(np.zeros((1, 1000)), top=0)


def test_a_published_classifier_knows_its_class_names(tmp_path, monkeypatch):
    """A tiny model, whose weights pass for a published checkpoint."""

    def build(**options):
        return keras_mixer.Mixer(8, 1, 8, 4, 8, **{"input_shape": (16, 16, 3), "weights": "sam"} | options)

    plain = build(weights=None)
    np.savez(tmp_path / "tiny.npz", **linen({weight.path: weight.numpy() for weight in plain.weights}, 1))
    monkeypatch.setattr(published.Published, "grid", (2, 2))
    monkeypatch.setattr(published, "find", lambda name, variant: published.Published("sam", "B/16", 1000, "nothing"))
    monkeypatch.setattr(published, "download", lambda checkpoint: tmp_path / "tiny.npz")
    model = build()
    assert model.class_names == tuple(name for _, name in imagenet_classes(1000))
    assert Predictor.of(model).facts.class_names[999] == "toilet_tissue"
    assert keras_mixer.change_resolution(model, (32, 16, 3)).class_names == model.class_names
    assert build(classes=7).class_names is None  # a new head
    assert build(include_top=False).class_names is None
    plain.class_names = tuple(f"class {i}" for i in range(1000))
    assert keras_mixer.load_weights(plain, "sam").class_names[0] == "class 0"

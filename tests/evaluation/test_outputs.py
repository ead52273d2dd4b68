"""The forms in which images and labels come, and features of all images."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import randomize

import keras_mixer
from keras_mixer.evaluation.outputs import features_of

pytestmark = pytest.mark.backends

IMAGES = np.random.default_rng(1).integers(0, 256, (70, 16, 16, 3), np.uint8)  # more than one batch of arrays
LABELS = np.random.default_rng(2).integers(0, 10, 70)
COLUMN, ONE_HOT = LABELS[:, None], np.eye(10)[LABELS]
STREAM = tf.data.Dataset.from_tensor_slices((IMAGES, ONE_HOT))


def in_batches(labels):
    return [(IMAGES[:64], labels[:64]), (IMAGES[64:], labels[64:])]


@pytest.fixture(scope="module")
def model():
    model = keras_mixer.Mixer(4, 1, 32, 16, 64, input_shape=(16, 16, 3), classes=10)
    return randomize(model, np.random.default_rng(0))


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 2

    def __iter__(self):  # for ever, as Keras's ImageDataGenerator
        return itertools.cycle(in_batches(COLUMN))

    def __getitem__(self, index):
        return in_batches(COLUMN)[index % 2]


def test_labels_and_data_are_taken_as_keras_users_have_them(model):
    expected = keras_mixer.evaluate(model, in_batches(LABELS))
    for data in (
        in_batches(COLUMN),  # as keras.datasets.cifar10 has them
        in_batches(ONE_HOT.astype(bool)),
        in_batches(LABELS.astype(np.float32)),
        in_batches(LABELS.astype(np.uint8)),
        iter(in_batches(LABELS)),
        [[images, list(labels)] for images, labels in in_batches(LABELS)],
        (IMAGES, LABELS),
        [IMAGES, ONE_HOT],
        (tf.constant(IMAGES), tf.constant(COLUMN)),
        STREAM.batch(64),
        Batches(),
    ):
        np.testing.assert_array_equal(keras_mixer.evaluate(model, data).confusion, expected.confusion)
    options = {"shots": (2,), "seeds": (0,)}
    shots = keras_mixer.few_shot(model, in_batches(LABELS), in_batches(LABELS), **options)
    assert keras_mixer.few_shot(model, STREAM.batch(64), Batches(), **options) == shots


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "The data set to evaluate on is empty"),
        ((IMAGES, LABELS, np.ones(70)), r"got shape .* and shape \(70,\) and shape \(70,\)\. .*drop weights"),
        (STREAM, r"shape \(16, 16, 3\) and shape \(10,\)\. Single images need .batch"),
        (STREAM.batch(8).repeat(), "infinite"),
        ((IMAGES, LABELS[:60]), r"shape \(70, 16, 16, 3\) and shape \(60,\)"),
        ([{"image": IMAGES, "label": LABELS}], "got a dict as a batch"),
        ((IMAGES, ONE_HOT * 0.9 + 0.01), "Soft and multiple labels"),
        ((IMAGES, np.eye(11)[LABELS]), r"one-hot rows \(B, 10\), got labels of shape \(64, 11\)"),
        ((IMAGES, LABELS + 0.5), "integer labels .* got labels from 0.5 to 9.5"),
        ((IMAGES, np.where(LABELS == 3, np.nan, LABELS)), "labels from nan to nan"),
        ((IMAGES, LABELS + 1), "got labels from 1 to 10"),
        ((IMAGES, LABELS - 1.0), "got labels from -1.0 to 8.0"),
        ((IMAGES, np.array(list("abcdefghij"))[LABELS]), "np.unique"),
    ],
)
def test_data_that_are_no_labelled_batches_are_refused_in_words(model, data, message):
    with pytest.raises(ValueError, match=message):
        keras_mixer.evaluate(model, data)


def test_features_are_those_of_every_image_in_order(model):
    extractor = keras_mixer.feature_extractor(model, "block_0")
    features, labels = features_of(extractor, in_batches(LABELS), "features", vectors=False)
    assert features.shape == (70, 4, 4, 32)
    np.testing.assert_allclose(features, keras.ops.convert_to_numpy(extractor(IMAGES)["block_0"]), atol=1e-5)
    np.testing.assert_array_equal(labels, LABELS)
    with pytest.raises(ValueError, match="no images to compute features"):
        features_of(extractor, [], "features")

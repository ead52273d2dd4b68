import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from keras_mixer.data import batches as batches_module
from keras_mixer.data.batches import evaluation_batches, padded_batches, shuffled_indices, training_batches
from keras_mixer.data.sources import load_source
from keras_mixer.data.user_data import own_source
from keras_mixer.training.devices import Devices
from keras_mixer.training.recipe import Recipe

OPERATIONS = {"randaugment_operations": ("Rotate", "Cutout"), "randaugment_level": 8.0}  # all take seconds to trace
RECIPE = Recipe("test", data="digits", image_size=16, global_batch_size=32, seed=0, crop_area=(0.5, 1.0))
RECIPE = dataclasses.replace(RECIPE, randaugment_num_ops=1, mixup_alpha=0.3, cutmix_alpha=1.0, **OPERATIONS)
PLAIN = dataclasses.replace(RECIPE, randaugment_num_ops=0, mixup_alpha=0.0, cutmix_alpha=0.0)


@pytest.fixture(scope="module")
def digits():
    return load_source("digits")


@pytest.fixture(scope="module", params=["together", "indexed", "stream"])
def train(request, digits):
    """Few digits a batch at a time, and one by one: in any order, like photographs, and only in theirs: a stream."""
    few = first(digits.train, 200)
    if request.param != "together":
        few = dataclasses.replace(few, pixels=None)
    return dataclasses.replace(few, at=None) if request.param == "stream" else few


def first(split, count):
    return split.part(np.arange(split.size) < count)


def take(dataset, count):
    assert dataset.options().autotune.enabled is False  # its thread holds up the end of an iterator
    return list(dataset.take(count).as_numpy_iterator())


def assert_equal(one, other):
    for batch, other_batch in zip(one, other, strict=True):
        for tensor, other_tensor in zip(batch, other_batch, strict=True):
            np.testing.assert_array_equal(tensor, other_tensor)


def side_by_side(parts):
    """The batches of one process out of those of several."""
    return [tuple(map(np.concatenate, zip(*batches, strict=True))) for batches in zip(*parts, strict=True)]


def noting(split, read):
    """A split that appends the labels of the images that are read to a list."""

    def read_and_note(element):
        tf.py_function(lambda labels: read.extend(np.atleast_1d(labels)), [element["label"]], [])
        return split.read(element)

    return dataclasses.replace(split, read=read_and_note)


def test_orders_are_permutations_independent_of_each_other():
    size = 60_000
    orders = shuffled_indices(tf.range(8 * size, dtype=tf.int64), size, 3).numpy().reshape(8, size)
    np.testing.assert_array_equal(np.sort(orders), [np.arange(size)] * 8)
    correlations = np.corrcoef([np.arange(size), *orders]) - np.eye(9)
    neighbors = [np.corrcoef(order[:-1], order[1:])[0, 1] for order in orders]
    assert np.abs([*correlations.flat, *neighbors]).max() < 0.02  # with 4 rounds 0.8
    other = shuffled_indices(tf.range(size, dtype=tf.int64), size, 4).numpy()
    assert (other == orders[0]).mean() < 0.01


def test_batches_follow_from_seed_and_step_in_any_number_of_processes(train):
    weights = np.arange(1.0, 11.0)
    recipe = dataclasses.replace(RECIPE, data_shards=4, mixup_alpha=0.0, class_weights=tuple(weights))
    whole = take(training_batches(train, recipe), 10)  # over the end of an epoch
    for images, labels, of_examples in whole:
        assert images.shape == (32, 16, 16, 3)
        assert images.dtype == labels.dtype == np.float32
        np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
        np.testing.assert_allclose(of_examples, labels @ weights, rtol=1e-6)
    parts = []
    for process, processes in ((0, 2), (2, 4), (3, 4)):  # the first half, the last two quarters, resumed
        devices, read = SimpleNamespace(process=process, processes=processes), []
        parts.append(take(training_batches(noting(train, read), recipe, 5, devices), 5))
        own = 5 * 32 // processes
        assert own <= len(read) < own + 500  # and what is fetched ahead
    assert_equal(side_by_side(parts), whole[5:])


def test_a_dataset_that_reshuffles_itself_gives_each_image_its_own_label():
    images = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 16, 16, 3))
    data = tf.data.Dataset.from_tensor_slices((images, np.arange(40))).shuffle(40)
    source, _ = own_source(data, data, classes=40, log=lambda line: None)
    for pixels, labels in take(training_batches(source.train, dataclasses.replace(PLAIN, global_batch_size=8)), 15):
        np.testing.assert_array_equal(pixels.mean((1, 2, 3)), labels.argmax(1))


def test_an_epoch_shows_every_example_once_and_the_next_one_in_another_way(train):
    recipe = dataclasses.replace(PLAIN, global_batch_size=8, data_shards=4)
    stream = take(training_batches(train, recipe), 50)
    other = take(training_batches(train, dataclasses.replace(recipe, seed=6)), 1)
    assert not np.array_equal(other[0][0], stream[0][0])
    labels = np.concatenate([labels.argmax(1) for _, labels in stream])
    epochs = labels[:200], labels[200:]
    assert np.bincount(epochs[0]).tolist() == np.bincount(epochs[1]).tolist() == np.bincount(train.labels()).tolist()
    assert epochs[0].tolist() != epochs[1].tolist()
    assert len({image.tobytes() for images, _ in stream for image in images}) > 380


def test_one_by_one_is_a_batch_at_a_time_and_a_late_batch_costs_as_much_as_the_first(digits):
    read, alone = [], dataclasses.replace(digits.train, pixels=None)
    late = take(training_batches(noting(alone, read), RECIPE, 10**6), 1)
    assert 32 <= len(read) < 32 * 20  # and what is fetched ahead
    assert_equal(late, take(training_batches(digits.train, RECIPE, 10**6), 1))


def test_cached_images_are_decoded_once_and_every_epoch_shows_all_of_them(digits):
    unchanged = {"crop_area": (1.0, 1.0), "crop_aspect": None, "flip": False}
    recipe = dataclasses.replace(PLAIN, cache=True, global_batch_size=8, **unchanged)
    read, few = [], first(digits.train, 24)
    batches = take(training_batches(noting(few, read), recipe), 6)
    assert len(read) == 24
    epochs = [sorted(image.tobytes() for images, _ in batches[i : i + 3] for image in images) for i in (0, 3)]
    assert epochs[0] == epochs[1]
    assert len(set(epochs[0])) == 24
    assert not np.array_equal(batches[0][0], batches[3][0])
    assert_equal(take(training_batches(few, recipe, 4), 2), batches[4:])
    with pytest.raises(ValueError, match="cache=True needs images that can be read by position"):
        training_batches(dataclasses.replace(few, at=None), recipe)


def test_cached_images_may_differ_in_size():
    images = [tf.io.encode_png(np.full((20 + i, 30 - i, 3), 40 * i, np.uint8)).numpy() for i in range(4)]
    source, _ = own_source((images, np.arange(4)), (images, np.arange(4)), log=lambda line: None)
    recipe = dataclasses.replace(PLAIN, cache=True, global_batch_size=4)
    for pixels, labels in take(training_batches(source.train, recipe), 3):
        np.testing.assert_array_equal(pixels.mean((1, 2, 3)), 40 * labels.argmax(1))


@pytest.mark.parametrize("alpha", [0.2, 1e-4])
def test_shares_of_mixed_labels_are_distributed_as_the_papers(alpha, digits):
    recipe = dataclasses.replace(PLAIN, global_batch_size=4, mixup_alpha=alpha)
    labels = [labels for _, labels in take(training_batches(first(digits.train, 10), recipe), 400)]
    shares = np.array([of_batch.max(-1).min() for of_batch in labels])  # an image whose neighbor has another label
    fractions = np.random.default_rng(0).beta(alpha, alpha, 100_000)
    expected = np.maximum(fractions, 1 - fractions)
    assert abs(shares.mean() - expected.mean()) < 4 * expected.std() / 20 + 0.02


def test_padded_batches_have_one_size_and_count_every_example_once(digits, monkeypatch):
    test, read, form = digits.test, [], {"image_size": (16, 16), "batch_size": 100, "crop": "resize"}
    in_order = evaluation_batches(test, **form)
    assert int(in_order.cardinality()) == 4
    images, labels = map(np.concatenate, zip(*take(in_order, -1), strict=True))
    recipe = dataclasses.replace(PLAIN, global_batch_size=100, evaluation_crop="resize")
    devices = [Devices("", 2, process=process, processes=2) for process in range(2)]
    parts = [padded_batches(noting(test, read), recipe, of_process) for of_process in devices]
    for _ in range(2):  # a small test part is decoded once, however often it is looked at
        batches = [take(part, -1) for part in parts]
        assert {batch[0].shape for part in batches for batch in part} == {(50, 16, 16, 3)}
        padded, one_hot, weights = map(np.concatenate, zip(*side_by_side(batches), strict=True))
        real = weights > 0
        assert weights.mean() == pytest.approx(1, abs=1e-6)
        np.testing.assert_array_equal(padded[real], images)
        np.testing.assert_array_equal(one_hot[real].argmax(1), labels)
        assert not padded[~real].any()
        assert len(read) == test.size
    monkeypatch.setattr(batches_module, "MAX_CACHED_BYTES", 0)
    large = padded_batches(noting(test, read), recipe, Devices("", 1))
    assert_equal(take(large, -1), take(large, -1))
    assert len(read) == 3 * test.size

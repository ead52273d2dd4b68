import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from keras_mixer.data import batches as batches_module
from keras_mixer.data.batches import evaluation_batches, padded_batches, shuffled_indices, training_batches
from keras_mixer.data.sources import load_source
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
    """Digits a batch at a time, and fewer one by one: in any order, like photographs, and only in theirs: a stream."""
    if request.param == "together":
        return digits.train
    few = dataclasses.replace(digits.train.part(np.arange(digits.train.size) < 400), pixels=None)
    return few if request.param == "indexed" else dataclasses.replace(few, at=None)


def take(dataset, count):
    assert dataset.options().autotune.enabled is False  # its thread holds up the end of an iterator
    return list(dataset.take(count).as_numpy_iterator())


def assert_equal(one, other):
    for batch, other_batch in zip(one, other, strict=True):
        for tensor, other_tensor in zip(batch, other_batch, strict=True):
            np.testing.assert_array_equal(tensor, other_tensor)


def side_by_side(parts):
    """The batches of one process out of those of several."""
    steps = zip(*parts, strict=True)
    return [tuple(np.concatenate(rows) for rows in zip(*batches, strict=True)) for batches in steps]


@pytest.mark.parametrize("size", [60_000, 1_797, 2])
def test_orders_are_permutations_independent_of_each_other(size):
    orders = shuffled_indices(tf.range(8 * size, dtype=tf.int64), size, 3).numpy().reshape(8, size)
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(size))
    if size > 1_000:
        columns = [np.arange(size), *orders]
        correlations = np.corrcoef(columns) - np.eye(9)
        neighbours = [np.corrcoef(order[:-1], order[1:])[0, 1] for order in orders]
        limit = 4.9 / np.sqrt(size)  # 0.02 for 60,000
        assert np.abs(correlations).max() < limit
        assert np.abs(neighbours).max() < limit
    other = shuffled_indices(tf.range(size, dtype=tf.int64), size, 4).numpy()
    assert size == 2 or (other == orders[0]).mean() < 0.01


def test_batches_follow_from_the_seed(train):
    weights = np.arange(1.0, 11.0)
    recipe = dataclasses.replace(RECIPE, class_weights=tuple(weights))
    batches = training_batches(train, recipe)
    once = take(batches, 5)
    assert_equal(once, take(batches, 5))
    other = take(training_batches(train, dataclasses.replace(recipe, seed=6)), 5)
    assert not np.array_equal(once[0][0], other[0][0])
    for images, labels, of_examples in once:
        assert images.shape == (32, 16, 16, 3)
        assert images.dtype == labels.dtype == np.float32
        assert 0 <= images.min() < images.max() <= 255
        np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
        np.testing.assert_allclose(of_examples, labels @ weights, rtol=1e-6)


def test_images_one_by_one_and_a_batch_at_a_time_are_the_same(digits):
    alone = dataclasses.replace(digits.train, pixels=None)
    assert_equal(take(training_batches(alone, RECIPE), 3), take(training_batches(digits.train, RECIPE), 3))


def test_a_later_start_continues_over_the_end_of_an_epoch(train):
    few = train.part(np.arange(train.size) < 200)
    whole = take(training_batches(few, RECIPE), 12)
    assert_equal(take(training_batches(few, RECIPE, 5), 7), whole[5:])


def test_an_epoch_shows_every_example_once_and_the_next_one_in_another_way(train):
    few = train.part(np.arange(train.size) < 200)
    stream = take(training_batches(few, dataclasses.replace(PLAIN, global_batch_size=1)), 400)
    labels = [int(label.argmax()) for _, label in stream]
    first, second = labels[:200], labels[200:]
    assert np.bincount(first).tolist() == np.bincount(second).tolist()
    assert first != second
    assert len({images.tobytes() for images, _ in stream}) > 380


def noting(split, read):
    """A split that appends the labels of the images that are read to a list."""

    def read_and_note(element):
        tf.py_function(lambda labels: read.extend(np.atleast_1d(labels)), [element["label"]], [])
        return split.read(element)

    return dataclasses.replace(split, read=read_and_note)


def test_the_first_batch_after_a_million_steps_reads_one_batch(digits):
    read, alone = [], dataclasses.replace(digits.train, pixels=None)
    take(training_batches(noting(alone, read), RECIPE, 10**6), 1)
    assert 32 <= len(read) < 32 * 20  # and what is fetched ahead


def test_cached_images_are_decoded_once_and_every_epoch_shows_all_of_them(digits):
    recipe = dataclasses.replace(
        PLAIN, cache=True, global_batch_size=8, crop_area=(1.0, 1.0), crop_aspect=None, flip=False
    )
    read = []
    few = digits.train.part(np.arange(digits.train.size) < 24)
    batches = take(training_batches(noting(few, read), recipe), 9)
    assert len(read) == 24
    epochs = [sorted(image.tobytes() for images, _ in batches[i : i + 3] for image in images) for i in (0, 3, 6)]
    assert epochs[0] == epochs[1] == epochs[2]
    assert len(set(epochs[0])) == 24
    assert not np.array_equal(batches[0][0], batches[3][0])
    assert_equal(take(training_batches(few, recipe, 4), 5), batches[4:])
    with pytest.raises(ValueError, match="cache=True needs images that can be read by position"):
        training_batches(dataclasses.replace(few, at=None), recipe)


def test_processes_give_the_rows_of_one_and_read_only_their_own_share(train):
    recipe = dataclasses.replace(RECIPE, data_shards=4, class_weights=tuple(np.linspace(0.5, 2, 10)))
    whole = take(training_batches(train, recipe, 40), 10)  # over the end of an epoch
    parts = []
    for process, processes in ((0, 2), (2, 4), (3, 4)):  # the first half, the last two quarters
        devices, read = SimpleNamespace(process=process, processes=processes), []
        parts.append(take(training_batches(noting(train, read), recipe, 40, devices), 10))
        own = 10 * 32 // processes
        assert own <= len(read) < own + 500  # and what is fetched ahead
    assert_equal(side_by_side(parts), whole)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.2, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 1.0), (1e-4, 0.0)])
def test_shares_of_mixed_labels_are_distributed_as_the_papers(mixup, cutmix, digits):
    few = dataclasses.replace(PLAIN, image_size=32, global_batch_size=4, mixup_alpha=mixup, cutmix_alpha=cutmix)
    every_class = digits.train.part(np.arange(digits.train.size) < 10)
    labels = [labels for _, labels in take(training_batches(every_class, few), 400)]
    np.testing.assert_allclose(np.sum(labels, -1), 1, atol=1e-6)
    shares = np.array([of_batch.max(-1).min() for of_batch in labels])  # an image whose neighbour has another label
    random = np.random.default_rng(0)
    fractions = random.beta(mixup, mixup, 100_000) if mixup else np.zeros(0)
    expected = np.maximum(fractions, 1 - fractions)
    if cutmix:
        cut, y, x = random.uniform(size=(3, 100_000))
        sides = [np.minimum(c + cut**0.5 / 2, 1) - np.maximum(c - cut**0.5 / 2, 0) for c in (y, x)]
        kept = 1 - sides[0] * sides[1]
        expected = np.concatenate([expected, np.maximum(kept, 1 - kept)])
    assert abs(shares.mean() - expected.mean()) < 4 * expected.std() / 20 + 0.02


def test_shards_hold_every_example_once(train):
    few = train.part(np.arange(train.size) < 200)
    parts = [few.shard(3, index) for index in range(3)]
    every, *rows = [
        [element["image"].tobytes() for element in part.elements.as_numpy_iterator()] for part in (few, *parts)
    ]
    assert [len(of_part) for of_part in rows] == [part.size for part in parts] == [67, 67, 66]
    assert sorted(itertools.chain(*rows)) == sorted(every)


@pytest.mark.parametrize(("size", "processes"), [(64, 1), (100, 2), (361, 3)])
def test_padded_batches_have_one_size_and_count_every_example_once(digits, size, processes):
    size = size // processes * processes
    form = {"image_size": (16, 16), "batch_size": size, "crop": "resize", "processes": processes}
    datasets = [padded_batches(digits.test, process=process, **form) for process in range(processes)]
    parts = [take(dataset, -1) for dataset in datasets]
    assert {len(part) for part in parts} == {-(-digits.test.size // size)}
    assert {batch[0].shape for part in parts for batch in part} == {(size // processes, 16, 16, 3)}
    images, labels, weights = (np.concatenate(tensors) for tensors in zip(*side_by_side(parts), strict=True))
    real = weights > 0
    assert real.sum() == digits.test.size
    assert not images[~real].any()
    assert weights.mean() == pytest.approx(1, abs=1e-6)
    expected = evaluation_batches(digits.test, image_size=(16, 16), batch_size=100, crop="resize")
    assert int(expected.cardinality()) == -(-digits.test.size // 100)
    expected_images, expected_labels = map(np.concatenate, zip(*take(expected, -1), strict=True))
    np.testing.assert_array_equal(images[real], expected_images)
    np.testing.assert_array_equal(labels[real].argmax(1), expected_labels)


@pytest.mark.parametrize(("limit", "reads"), [(batches_module.MAX_CACHED_BYTES, 1), (0, 3)])
def test_a_small_test_part_is_read_once_however_often_it_is_looked_at(digits, limit, reads, monkeypatch):
    monkeypatch.setattr(batches_module, "MAX_CACHED_BYTES", limit)
    read = []
    batches = padded_batches(noting(digits.test, read), image_size=(16, 16), batch_size=100, crop="resize")
    first, *others = (take(batches, -1) for _ in range(3))
    for other in others:
        assert_equal(first, other)
    assert len(read) == reads * digits.test.size

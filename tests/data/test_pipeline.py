import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_mixer.data import pipeline
from keras_mixer.data.batches import evaluation_batches, padded_batches, training_batches
from keras_mixer.data.settings import Augmentation
from keras_mixer.data.sources import load_source

OPTIONS = {
    "classes": 10,
    "image_size": (16, 16),
    "batch_size": 32,
    "seed": 5,
    "augmentation": Augmentation(randaugment_num_ops=2, randaugment_level=8.0, mixup_alpha=0.3),
}


@pytest.fixture(scope="module")
def digits():
    return load_source("digits")


def take(dataset, count):
    return list(dataset.take(count).as_numpy_iterator())


def assert_equal(one, other):
    for batch, other_batch in zip(one, other, strict=True):
        for tensor, other_tensor in zip(batch, other_batch, strict=True):
            np.testing.assert_array_equal(tensor, other_tensor)


def test_training_batches_have_the_promised_form(digits):
    ((images, labels),) = take(training_batches(digits.train, **OPTIONS), 1)
    assert images.shape == (32, 16, 16, 3)
    assert images.dtype == labels.dtype == np.float32
    assert 0 <= images.min() < images.max() <= 255
    np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)


def test_batches_follow_from_the_seed(digits):
    one, same = (take(training_batches(digits.train, **OPTIONS), 5) for _ in range(2))
    assert_equal(one, same)
    other = take(training_batches(digits.train, **(OPTIONS | {"seed": 6})), 5)
    assert not np.array_equal(one[0][0], other[0][0])


def test_a_second_look_at_the_same_dataset_sees_the_same_batches(digits):
    dataset = training_batches(digits.train, **OPTIONS)
    assert_equal(take(dataset, 3), take(dataset, 3))


def test_a_later_start_continues_the_stream_over_the_end_of_an_epoch(digits):
    whole = take(training_batches(digits.train, **OPTIONS), 60)
    assert digits.train.size < 60 * 32
    assert_equal(take(training_batches(digits.train, start_step=41, **OPTIONS), 19), whole[41:])


def test_an_epoch_shows_every_example_once_and_the_next_one_in_another_way(digits):
    plain = OPTIONS | {"batch_size": 1, "augmentation": Augmentation()}
    stream = take(training_batches(digits.train, **plain), 2 * digits.train.size)
    labels = [int(label.argmax()) for _, label in stream]
    first, second = labels[: digits.train.size], labels[digits.train.size :]
    assert np.bincount(first).tolist() == np.bincount(second).tolist()
    assert first != second
    assert len({images.tobytes() for images, _ in stream}) > 1.9 * digits.train.size


def test_evaluation_counts_every_example_once_and_knows_its_length(digits):
    batches = evaluation_batches(digits.test, image_size=(16, 16), batch_size=100, crop="resize")
    labels = np.concatenate([labels for _, labels in batches])
    assert len(labels) == digits.test.size
    assert int(batches.cardinality()) == -(-digits.test.size // 100)
    assert labels.dtype == np.int64


def side_by_side(parts):
    """The batches of one process out of those of several."""
    steps = zip(*parts, strict=True)
    return [tuple(np.concatenate(rows) for rows in zip(*batches, strict=True)) for batches in steps]


OTHER_ENGINE = """
from test_pipeline import OPTIONS, digest
print(digest(OPTIONS))
"""


def digest(options):
    batches = take(training_batches(load_source("digits").train, **options), 3)
    tensors = [tensor.tobytes() for batch in batches for tensor in batch]
    return hashlib.sha256(b"".join(tensors)).hexdigest()


def test_both_engines_see_the_same_images():
    other = {"tensorflow": "jax", "jax": "tensorflow"}[keras.backend.backend()]
    environment = os.environ | {"KERAS_BACKEND": other, "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", OTHER_ENGINE]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    assert out.split() == [digest(OPTIONS)]


def test_processes_give_the_rows_of_one_and_read_only_their_own_share(digits, monkeypatch):
    monkeypatch.setattr(pipeline, "small_images", lambda *options: None)  # they are read once, before the first batch
    options = OPTIONS | {"shards": 4, "start_step": 3, "class_weights": np.linspace(0.5, 2, 10)}
    options["augmentation"] = Augmentation(mixup_alpha=0.3, cutmix_alpha=1.0)
    read = []

    def reading(process):
        def read_and_note(element):
            tf.py_function(lambda label: read.append((process, int(label))), [element["label"]], [])
            return digits.train.read(element)

        return dataclasses.replace(digits.train, read=read_and_note)

    whole = take(training_batches(digits.train, **options), 50)
    parts = [
        take(training_batches(reading(process), process=process, processes=2, **options), 50) for process in (0, 1)
    ]
    joined = [
        tuple(np.concatenate(pair) for pair in zip(*batches, strict=True)) for batches in zip(*parts, strict=True)
    ]
    assert_equal(joined, whole)
    for process in (0, 1):
        seen = sum(who == process for who, _ in read)
        assert 50 * 16 <= seen < 50 * 16 + 500  # its half of each batch, and what was fetched ahead


def test_shards_hold_every_example_once(digits):
    parts = [digits.train.shard(3, index) for index in range(3)]
    assert sum(part.size for part in parts) == digits.train.size
    counted = [sum(1 for _ in part.elements) for part in parts]
    assert counted == [part.size for part in parts]
    encoded = [element["image"] for part in parts for element in part.elements.as_numpy_iterator()]
    assert sorted(encoded) == sorted(element["image"] for element in digits.train.elements.as_numpy_iterator())


def test_examples_weigh_what_their_labels_say(digits):
    weights = np.arange(1.0, 11.0)
    for images, labels, of_batch in take(training_batches(digits.train, class_weights=weights, **OPTIONS), 2):
        assert len(images) == 32
        np.testing.assert_allclose(of_batch, labels @ weights, rtol=1e-6)


@pytest.mark.parametrize(("size", "processes"), [(64, 1), (100, 2), (361, 3)])
def test_padded_batches_have_one_size_and_count_every_example_once(digits, size, processes):
    size = size // processes * processes
    form = {"image_size": (16, 16), "batch_size": size, "crop": "resize", "classes": 10, "processes": processes}
    datasets = [padded_batches(digits.test, process=process, **form) for process in range(processes)]
    parts = [list(dataset.as_numpy_iterator()) for dataset in datasets]
    assert {len(part) for part in parts} == {-(-digits.test.size // size)}
    assert {batch[0].shape for part in parts for batch in part} == {(size // processes, 16, 16, 3)}
    images, labels, weights = (np.concatenate(tensors) for tensors in zip(*side_by_side(parts), strict=True))
    real = weights > 0
    assert real.sum() == digits.test.size
    assert not images[~real].any()
    assert weights.mean() == pytest.approx(1, abs=1e-6)
    expected = evaluation_batches(digits.test, image_size=(16, 16), batch_size=100, crop="resize")
    np.testing.assert_array_equal(images[real], np.concatenate([images for images, _ in expected]))
    np.testing.assert_array_equal(labels[real].argmax(1), np.concatenate([labels for _, labels in expected]))


@pytest.mark.parametrize(("limit", "reads"), [(pipeline.MAX_CACHED_BYTES, 1), (0, 3)])
def test_a_small_test_part_is_read_once_however_often_it_is_looked_at(digits, limit, reads, monkeypatch):
    monkeypatch.setattr(pipeline, "MAX_CACHED_BYTES", limit)
    counter = tf.Variable(0)

    def counted(element):
        with tf.control_dependencies([counter.assign_add(1)]):
            return digits.test.read(element)

    part = dataclasses.replace(digits.test, read=counted)
    batches = padded_batches(part, image_size=(16, 16), batch_size=100, crop="resize", classes=10)
    first, *others = (list(batches.as_numpy_iterator()) for _ in range(3))
    for other in others:
        assert_equal(first, other)
    assert counter.numpy() == reads * digits.test.size


def test_no_thread_that_tunes_holds_up_the_end_of_an_iterator(digits):
    evaluated = {"image_size": (16, 16), "batch_size": 32, "crop": "resize"}
    for batches in (
        training_batches(digits.train, **OPTIONS),
        evaluation_batches(digits.test, **evaluated),
        padded_batches(digits.test, classes=10, **evaluated),
    ):
        assert batches.options().autotune.enabled is False

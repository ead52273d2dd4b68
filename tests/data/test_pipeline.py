import numpy as np
import pytest

from keras_mixer.data.pipeline import evaluation_batches, training_batches
from keras_mixer.data.sources import load_source

OPTIONS = {
    "classes": 10,
    "image_size": (16, 16),
    "batch_size": 32,
    "seed": 5,
    "randaugment_num_ops": 2,
    "randaugment_level": 8.0,
    "mixup_alpha": 0.3,
}


@pytest.fixture(scope="module")
def digits():
    return load_source("digits")


def take(dataset, count):
    return [(images.numpy(), labels.numpy()) for images, labels in dataset.take(count)]


def assert_equal(one, other):
    for (images, labels), (other_images, other_labels) in zip(one, other, strict=True):
        np.testing.assert_array_equal(images, other_images)
        np.testing.assert_array_equal(labels, other_labels)


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
    plain = OPTIONS | {"mixup_alpha": 0.0, "batch_size": 1, "randaugment_num_ops": 0}
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

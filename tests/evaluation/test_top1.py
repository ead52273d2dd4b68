import keras
import numpy as np
import pytest

import keras_mixer

pytestmark = pytest.mark.backends


class Fixed:
    """A classifier whose answers are given: image i gets row i."""

    output_shape = (None, 7)

    def __init__(self, probabilities):
        self.probabilities = probabilities

    def predict_on_batch(self, images):
        return self.probabilities[images[:, 0].astype(int)]


def batches(labels, size):
    images = np.arange(len(labels), dtype=np.float32)[:, None]
    return [(images[i : i + size], labels[i : i + size]) for i in range(0, len(labels), size)]


@pytest.mark.parametrize("size", [1, 7, 50, 64])
def test_every_example_counts_once_whatever_the_batches(rng, size):
    probabilities = rng.dirichlet(np.ones(7), 50).astype(np.float32)
    labels = rng.integers(0, 7, 50)
    result = keras_mixer.evaluate(Fixed(probabilities), batches(labels, size))
    order = np.argsort(-probabilities, axis=1)
    assert result.examples == 50
    assert result.top1 == (order[:, 0] == labels).mean()
    assert result.top5 == (order[:, :5] == labels[:, None]).any(1).mean()
    assert result.loss == pytest.approx(-np.log(probabilities[np.arange(50), labels].astype(float)).mean(), rel=1e-12)
    for label in range(7):
        for guess in range(7):
            assert result.confusion[label, guess] == ((labels == label) & (order[:, 0] == guess)).sum()


def test_per_class_accuracy_is_nan_for_a_class_without_examples():
    result = keras_mixer.evaluate(Fixed(np.eye(7)[[0, 1, 1]]), batches(np.array([0, 0, 1]), 2))
    np.testing.assert_array_equal(result.per_class(), [0.5, 1.0, *[np.nan] * 5])


def test_a_probability_of_zero_keeps_the_loss_finite():
    assert np.isfinite(keras_mixer.evaluate(Fixed(np.eye(7)[[0]]), batches(np.array([3]), 1)).loss)


def test_useless_data_are_refused():
    with pytest.raises(ValueError, match="empty"):
        keras_mixer.evaluate(Fixed(np.eye(7)), [])
    with pytest.raises(ValueError, match="7 classes"):
        keras_mixer.evaluate(Fixed(np.eye(7)), batches(np.array([0, 9]), 2))


def test_a_keras_model_is_evaluated(tiny_mixer, rng):
    model = tiny_mixer()
    images, labels = rng.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8), rng.integers(0, 10, 9)
    result = keras_mixer.evaluate(model, [(images[:5], labels[:5]), (images[5:], labels[5:])])
    guesses = keras.ops.convert_to_numpy(model(images)).argmax(1)
    assert result.top1 == (guesses == labels).mean()


@pytest.fixture
def on_devices():
    """Runs a function that builds and measures a model on some of the virtual devices."""

    def run(count, measure):
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            with tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(count)]).scope():
                return measure()
        devices = keras.distribution.list_devices("cpu")[:count]
        keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
        try:
            return measure()
        finally:
            keras.distribution.set_distribution(None)

    return run


@pytest.mark.parametrize("count", [2, 3])
def test_any_number_of_devices_counts_every_image_once(on_devices, tiny_mixer, rng, count):
    images, labels = rng.integers(0, 256, (11, 16, 16, 3), dtype=np.uint8), rng.integers(0, 10, 11)
    batches = [(images[i : i + 4], labels[i : i + 4]) for i in range(0, 11, 4)]
    model = tiny_mixer(num_blocks=1)
    weights = model.get_weights()
    one = keras_mixer.evaluate(model, batches)

    def measure():
        model = tiny_mixer(num_blocks=1)
        model.set_weights(weights)
        return keras_mixer.evaluate(model, batches)

    many = on_devices(count, measure)
    np.testing.assert_array_equal(many.confusion, one.confusion)
    assert many.loss == pytest.approx(one.loss, abs=1e-6)

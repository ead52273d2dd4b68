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


def brute_force(outputs, labels):
    """Of each image its guess, or None, and the place of its label: highest first, ties by index, NaN nowhere."""
    for row, label in zip(outputs, labels, strict=True):
        order = [index for index in np.argsort(-row, kind="stable") if not np.isnan(row[index])]
        yield order[0] if order else None, order.index(label) if label in order else np.inf


def with_ties(rng):
    return rng.integers(0, 3, (60, 7)) / 4


def with_nan(rng):
    outputs = rng.dirichlet(np.ones(7), 60)
    outputs[rng.random((60, 7)) < 0.3] = np.nan
    outputs[::9] = np.nan
    return outputs


def with_ties_nan_and_infinity(rng):
    return rng.choice([0.0, 0.5, np.nan, np.inf, -np.inf], (60, 7))


def all_nan(rng):
    return np.full((60, 7), np.nan)


def all_equal(rng):
    return np.full((60, 7), 1 / 7)


@pytest.mark.parametrize("make", [with_ties, with_nan, with_ties_nan_and_infinity, all_nan, all_equal])
@pytest.mark.parametrize("size", [1, 7, 60, 64])
def test_ties_go_to_the_lower_class_and_nan_is_never_right(rng, make, size):
    outputs = make(rng).astype(np.float32)
    labels = rng.integers(0, 6, 60)  # of class 6 there are no examples
    result = keras_mixer.evaluate(Fixed(outputs), batches(labels, size))
    guesses, places = zip(*brute_force(outputs, labels), strict=True)
    assert result.examples == 60
    assert result.top1 == np.mean([place < 1 for place in places])
    assert result.top5 == np.mean([place < 5 for place in places])
    right = [np.mean(np.array(places)[labels == label] < 1) for label in range(6)]
    np.testing.assert_array_equal(result.per_class(), [*right, np.nan])
    pairs = [(label, guess) for label, guess in zip(labels, guesses, strict=True) if guess is not None]
    assert result.confusion.sum() == len(pairs)
    assert all(result.confusion[pair] == pairs.count(pair) for pair in pairs)
    assert result.non_finite == (~np.isfinite(outputs)).any(1).sum()


@pytest.mark.parametrize("value", [1 / 3, np.nan])
def test_five_of_fewer_classes_are_all_of_them_but_not_nan(value):
    model = Fixed(np.full((4, 3), value))
    model.output_shape = (None, 3)
    assert keras_mixer.evaluate(model, batches(np.array([0, 1, 2, 2]), 3)).top5 == (0 if np.isnan(value) else 1)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_model_that_always_answers_the_same_is_said_to_be_untrained(rng, size):
    labels = np.array([0, 1, 2, 3, 4])
    same = np.repeat(rng.dirichlet(np.ones(7), 1), 5, axis=0)
    untrained = keras_mixer.evaluate(Fixed(same), batches(labels, size))
    assert untrained.constant
    assert untrained.remarks() == ["All 5 images have the same output: the model is untrained."]
    same[4, 2] += 1e-6
    for outputs, count in ((same, 5), (same, 1)):  # nothing can be said of one image
        result = keras_mixer.evaluate(Fixed(outputs), batches(labels[:count], size))
        assert not result.constant
        assert result.remarks() == []


def test_outputs_that_are_not_finite_are_counted_in_words():
    outputs = np.eye(7)[[0, 1, 2]]
    outputs[1, 6] = np.nan
    result = keras_mixer.evaluate(Fixed(outputs), batches(np.array([0, 1, 2]), 2))
    (remark,) = result.remarks()
    assert remark == "1 of 3 images have outputs that are not finite (NaN or infinity); NaN never counts as correct."
    assert result.top1 == 1.0


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


def test_logits_are_evaluated_as_the_probabilities_they_mean(tiny_mixer, rng):
    images, labels = rng.integers(0, 256, (9, 16, 16, 3), dtype=np.uint8), rng.integers(0, 10, 9)
    weights = tiny_mixer().get_weights()
    for activation in ("softmax", "sigmoid"):
        logits, probabilities = tiny_mixer(classifier_activation=None), tiny_mixer(classifier_activation=activation)
        for model in (logits, probabilities):
            model.set_weights(weights)
        if activation == "sigmoid":
            logits.compile(loss="binary_crossentropy")
        found, expected = (keras_mixer.evaluate(model, [(images, labels)]) for model in (logits, probabilities))
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        np.testing.assert_array_equal(found.confusion, expected.confusion)
    with pytest.raises(ValueError, match="has no head"):
        keras_mixer.evaluate(tiny_mixer(include_top=False, pooling="avg"), [(images, labels)])


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

import keras
import numpy as np
import pytest
from conftest import randomize

import keras_mixer
from keras_mixer.evaluation.accuracy import probabilities_of
from keras_mixer.export.predictor import Predictor

IMAGES = np.random.default_rng(1).integers(0, 256, (11, 16, 16, 3), np.uint8)
LABELS = np.random.default_rng(2).integers(0, 10, 11)


class Fixed:
    """A classifier whose answers are given: image i gets row i."""

    def __init__(self, probabilities):
        self.probabilities = probabilities

    def predict_on_batch(self, images):
        return self.probabilities[images[:, 0].astype(int)]


def evaluated(outputs, labels, size=7):
    images = np.arange(len(labels), dtype=np.float32)[:, None]
    batches = [(images[i : i + size], labels[i : i + size]) for i in range(0, len(labels), size)]
    return keras_mixer.evaluate(Fixed(outputs), batches)


def brute_force(outputs, labels):
    """Of each image its guess, or None, and the place of its label: highest first, ties by index, NaN nowhere."""
    for row, label in zip(outputs, labels, strict=True):
        order = [index for index in np.argsort(-row, kind="stable") if not np.isnan(row[index])]
        yield order[0] if order else None, order.index(label) if label in order else np.inf


def distinct(rng):
    return rng.dirichlet(np.ones(7), 60)


OUTPUTS = {
    "distinct": distinct,
    "ties": lambda rng: rng.integers(0, 3, (60, 7)) / 4,
    "rows of NaN": lambda rng: np.where(np.arange(60)[:, None] % 9, distinct(rng), np.nan),
    "ties, NaN and infinity": lambda rng: rng.choice([0.0, 0.5, np.nan, np.inf, -np.inf], (60, 7)),
    "all NaN": lambda rng: np.full((60, 7), np.nan),
    "all equal": lambda rng: np.full((60, 7), 1 / 7),
    "three classes": lambda rng: rng.dirichlet(np.ones(3), 60),
}


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("size", [1, 7, 64])
@pytest.mark.filterwarnings("ignore:.* images have outputs that are not finite")
def test_ties_go_to_the_lower_class_and_nan_is_never_right(rng, kind, size):
    outputs = OUTPUTS[kind](rng).astype(np.float32)
    last = outputs.shape[1] - 1  # of this class there are no examples
    labels = rng.integers(0, last, 60)
    result = evaluated(outputs, labels, size)
    guesses, places = zip(*brute_force(outputs, labels), strict=True)
    assert result.examples == 60
    assert result.top1 == np.mean([place < 1 for place in places])
    assert result.top5 == np.mean([place < 5 for place in places])
    right = [np.mean(np.array(places)[labels == label] < 1) for label in range(last)]
    np.testing.assert_array_equal(result.per_class(), [*right, np.nan])
    pairs = [(label, guess) for label, guess in zip(labels, guesses, strict=True) if guess is not None]
    assert result.confusion.sum() == len(pairs)
    assert all(result.confusion[pair] == pairs.count(pair) for pair in pairs)
    assert result.non_finite == (~np.isfinite(outputs)).any(1).sum()
    of_label = outputs[np.arange(60), labels].astype(np.float64)
    np.testing.assert_allclose(result.loss, -np.log(np.maximum(of_label, 1e-12)).mean(), rtol=1e-12)


def test_outputs_that_are_constant_or_not_finite_are_warned_of(rng):
    same = np.repeat(rng.dirichlet(np.ones(7), 1), 5, axis=0)
    labels = np.arange(5)
    with pytest.warns(UserWarning, match="All 5 images have the same output: the model is untrained."):
        evaluated(same, labels, size=2)
    evaluated(same, labels[:1])  # nothing can be said of one image
    same[4, 2] += 1e-6
    evaluated(same, labels, size=2)
    same[1, 6] = np.nan
    with pytest.warns(UserWarning, match="1 of 5 images have outputs that are not finite .NaN or infinity.; NaN is"):
        evaluated(same, labels)


@pytest.fixture(scope="module")
def logits():
    """A nested model of logits with weights, and its outputs for the images in float64."""
    body = keras_mixer.Mixer(8, 1, 16, 8, 16, input_shape=(16, 16, 3), include_top=False, pooling="avg")
    model = keras.Sequential([randomize(body, np.random.default_rng(0)), keras.layers.Dense(10)])
    model.build((None, 16, 16, 3))
    return model, keras.ops.convert_to_numpy(model(IMAGES)).astype(np.float64)


@pytest.mark.backends
def test_own_heads_give_probabilities_whatever_they_end_in(logits):
    """The usual fine-tune, with and without an activation, as Sequential and as functional model, nested or not."""
    (model, scores), image = logits, keras.Input((16, 16, 3))
    of_binary_loss = keras.Model(image, model(image))
    of_binary_loss.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True, name="mine"))
    for activation, own in (
        ("softmax", model),
        ("softmax", keras.Model(image, model(image))),
        ("softmax", keras.Model(image, keras.layers.Activation("softmax")(model(image)))),
        ("softmax", keras.Model(image, keras.ops.softmax(model(image)))),
        ("sigmoid", keras.Model(image, keras.ops.sigmoid(model(image)))),
        ("sigmoid", of_binary_loss),
    ):
        result, expected = keras_mixer.evaluate(own, (IMAGES, LABELS)), probabilities_of(scores, activation)
        assert result.loss == pytest.approx(-np.log(expected[np.arange(11), LABELS]).mean(), rel=1e-4)
        assert result.top1 == (scores.argmax(1) == LABELS).mean()


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_one_sigmoid_output_is_the_probability_of_class_1(tiny_mixer, activation):
    model, labels = tiny_mixer(num_blocks=1, classes=1, classifier_activation=activation), LABELS % 2
    output = keras.ops.convert_to_numpy(model(IMAGES))[:, 0].astype(np.float64)
    probability = output if activation else 1 / (1 + np.exp(-output))
    for given in (labels, labels[:, None].astype(bool), np.eye(2)[labels]):
        result = keras_mixer.evaluate(model, (IMAGES, given))
        assert result.top1 == ((probability > 0.5) == labels).mean()
        assert result.loss == pytest.approx(-np.log(np.where(labels, probability, 1 - probability)).mean(), rel=1e-5)
        assert result.confusion.shape == (2, 2)
    predictor = Predictor.of(model)
    assert predictor.class_names == ("1",)
    np.testing.assert_allclose(predictor.probabilities(IMAGES)[:, 0], probability, atol=1e-6)


def test_outputs_of_unknown_meaning_are_refused(logits):
    class Own(keras.Model):
        def call(self, images):
            return logits[0](images)

    model, image = logits[0], keras.Input((16, 16, 3))
    numeric = keras.Model(image, model(image))
    numeric.compile(loss=keras.losses.Huber(name="mine"))
    for own, message in (
        (numeric, "compiled with huber gives numbers"),
        (Own(), "other outputs after own"),
        (keras.Model(image, keras.ops.log_softmax(model(image))), "other outputs after"),
        (keras.Model(image, [model(image)] * 2), "other outputs after"),
        (model.layers[0], "few_shot evaluates one without a head"),
    ):
        with pytest.raises(ValueError, match=message):
            keras_mixer.evaluate(own, (IMAGES, LABELS))


@pytest.fixture(scope="module")
def mixers():
    """Mixers that take pixels in [0, 255], by themselves and nested, or in [-1, 1]."""
    sizes = {"input_shape": (16, 16, 3), "classes": 10}
    both = (keras_mixer.Mixer(8, 1, 16, 8, 16, **sizes, include_preprocessing=p) for p in (True, False))
    plain, scaled = (randomize(model, np.random.default_rng(0)) for model in both)
    nested = keras.Sequential([keras.layers.RandomFlip(), keras.Sequential([plain])])
    nested.build((None, 16, 16, 3))
    return {"plain": plain, "nested": nested, "scaled": scaled}


@pytest.mark.parametrize(
    ("name", "pixels", "told"),
    [
        ("plain", IMAGES / 255, "0 to 1"),
        ("plain", (IMAGES / 255 - 0.45) / 0.22, "-2.04"),
        ("nested", IMAGES / 127.5 - 1, "-1 to 1"),
        ("plain", IMAGES - 128.0, "-128 to"),
        ("scaled", IMAGES, "0 to 255"),
        ("scaled", IMAGES / 255, "0 to 1"),
        ("plain", IMAGES, None),
        ("plain", IMAGES * 1.3 - 30, None),  # as after resizing by a sharp kernel
        ("plain", np.zeros_like(IMAGES), None),
        ("plain", np.minimum(IMAGES, 2), None),  # very dark
        ("scaled", IMAGES / 127.5 - 1, None),
    ],
)
def test_pixels_out_of_range_are_warned_of_once(mixers, name, pixels, told):
    data = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32), LABELS
    if told is None:
        keras_mixer.evaluate(mixers[name], data)
        return
    black, white = (-1, 1) if name == "scaled" else (0, 255)
    with pytest.warns(UserWarning, match=rf"are {told}.* expects {black} \(black\) to {white} \(white\)") as warned:
        keras_mixer.evaluate(mixers[name], data)
    assert (len(warned), warned[0].filename) == (1, __file__)


@pytest.mark.backends
def test_any_number_of_devices_counts_every_image_once(tiny_mixer):
    batches = [(IMAGES[i : i + 4], LABELS[i : i + 4]) for i in range(0, 11, 4)]
    model = tiny_mixer(num_blocks=1)
    one = keras_mixer.evaluate(model, batches)

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        devices = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(3)])
    else:
        devices = keras.distribution.DataParallel(devices=keras.distribution.list_devices("cpu")[:3])
    with devices.scope():
        copy = tiny_mixer(num_blocks=1)
        copy.set_weights(model.get_weights())
        many = keras_mixer.evaluate(copy, batches)
    np.testing.assert_array_equal(many.confusion, one.confusion)
    assert many.loss == pytest.approx(one.loss, abs=1e-6)

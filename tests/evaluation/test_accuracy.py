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


def distinct(rng):
    return rng.dirichlet(np.ones(7), 60)


OUTPUTS = {
    "distinct": distinct,
    "ties": lambda rng: rng.integers(0, 3, (60, 7)) / 4,
    "some NaN": lambda rng: np.where(rng.random((60, 7)) < 0.3, np.nan, distinct(rng)),
    "rows of NaN": lambda rng: np.where(np.arange(60)[:, None] % 9, distinct(rng), np.nan),
    "ties, NaN and infinity": lambda rng: rng.choice([0.0, 0.5, np.nan, np.inf, -np.inf], (60, 7)),
    "all NaN": lambda rng: np.full((60, 7), np.nan),
    "all equal": lambda rng: np.full((60, 7), 1 / 7),
}


@pytest.mark.parametrize("kind", OUTPUTS)
@pytest.mark.parametrize("size", [1, 7, 60, 64])
def test_ties_go_to_the_lower_class_and_nan_is_never_right(rng, kind, size):
    outputs = OUTPUTS[kind](rng).astype(np.float32)
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
    of_label = outputs[np.arange(60), labels].astype(np.float64)
    np.testing.assert_allclose(result.loss, -np.log(np.maximum(of_label, 1e-12)).mean(), rtol=1e-12)


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


def test_outputs_that_are_not_finite_are_counted_in_words_and_the_loss_stays_finite():
    outputs = np.eye(7)[[0, 1, 2]]
    outputs[1, 6] = np.nan
    result = keras_mixer.evaluate(Fixed(outputs), batches(np.array([0, 1, 2]), 2))
    (remark,) = result.remarks()
    assert remark == "1 of 3 images have outputs that are not finite (NaN or infinity); NaN never counts as correct."
    assert result.top1 == 1.0
    assert np.isfinite(keras_mixer.evaluate(Fixed(np.eye(7)[[0]]), batches(np.array([3]), 1)).loss)


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
        assert found.top1 == (keras.ops.convert_to_numpy(logits(images)).argmax(1) == labels).mean()
    with pytest.raises(ValueError, match="a model without a head"):
        keras_mixer.evaluate(tiny_mixer(include_top=False, pooling="avg"), [(images, labels)])


@pytest.fixture
def ten(rng):
    """Images and labels of ten classes, more than one batch of arrays holds."""
    return rng.integers(0, 256, (70, 16, 16, 3), dtype=np.uint8), rng.integers(0, 10, 70)


def in_batches(images, labels, size=32):
    return [(images[i : i + size], labels[i : i + size]) for i in range(0, len(images), size)]


class Batches(keras.utils.PyDataset):
    """Goes on for ever if asked for more than it has."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index % len(self)]


def forms(images, labels):
    import tensorflow as tf

    one_hot = np.eye(10)[labels]
    column = labels[:, None]
    yield "rows", in_batches(images, column)  # as keras.datasets.cifar10 has them
    yield "one-hot", in_batches(images, one_hot)
    yield "one-hot booleans", in_batches(images, one_hot.astype(bool))
    yield "floats", in_batches(images, labels.astype(np.float32))
    yield "bytes", in_batches(images, labels.astype(np.uint8))
    yield "generator", (batch for batch in in_batches(images, labels))
    yield "lists", [[batch, list(numbers)] for batch, numbers in in_batches(images, labels)]
    yield "arrays", (images, labels)
    yield "arrays, one-hot", [images, one_hot]
    yield "tensors", (tf.constant(images), tf.constant(column))
    yield "tf.data", tf.data.Dataset.from_tensor_slices((images, one_hot)).batch(32)
    yield "PyDataset", Batches(in_batches(images, column))


def test_labels_and_data_are_taken_as_keras_users_have_them(tiny_mixer, ten):
    model, (images, labels) = tiny_mixer(num_blocks=1), ten
    expected = keras_mixer.evaluate(model, in_batches(images, labels))
    shots = keras_mixer.few_shot(model, in_batches(images, labels), in_batches(images, labels), shots=(2,), seeds=(0,))
    for name, data in forms(images, labels):
        np.testing.assert_array_equal(keras_mixer.evaluate(model, data).confusion, expected.confusion, name)
    every = forms(images, labels)
    for (name, train), (other, test) in zip(every, every, strict=True):  # two at a time
        found = keras_mixer.few_shot(model, train, test, shots=(2,), seeds=(0,))
        assert found.accuracy == shots.accuracy, (name, other)


def mistakes(images, labels):
    import tensorflow as tf

    stream = tf.data.Dataset.from_tensor_slices((images, labels))
    one_hot = np.eye(10)[labels]
    yield "got weights too", [(images, labels, np.ones(len(labels)))]
    yield "got weights too", (images, labels, np.ones(len(labels)))
    yield r"shape \(16, 16, 3\) and labels of shape \(\). Single images need .batch", stream
    yield "infinite", stream.batch(8).repeat()
    yield r"images of shape \(70, 16, 16, 3\) and labels of shape \(60,\)", (images, labels[:60])
    yield r"images of shape \(70, 16, 16, 3\) and labels of shape \(60,\)", [(images, labels[:60])]
    yield "Decode and resize", [(np.array([b"GIF89a"] * 3), labels[:3])]
    yield "got a dict as a batch", [{"image": images, "label": labels}]
    yield "got a ndarray as a batch", images
    yield "got a EagerTensor as a batch", stream.map(lambda image, label: image).batch(8)
    yield "Soft and multiple labels", (images, one_hot * 0.9 + 0.01)
    yield "Soft and multiple labels", (images, np.ones_like(one_hot))
    yield "Soft and multiple labels", (images, np.zeros_like(one_hot))
    yield "not whole numbers", (images, labels + 0.5)
    yield "not whole numbers", (images, np.where(labels == 3, np.nan, labels))
    yield "np.unique", (images, np.array(list("abcdefghij"))[labels])
    yield r"labels of shape \(\d+, 2, 5\)", (images, one_hot.reshape(70, 2, 5))


def test_data_that_are_no_labelled_batches_are_refused_in_words(tiny_mixer, ten):
    model = tiny_mixer(num_blocks=1)
    good = in_batches(*ten)
    for message, data in mistakes(*ten):
        with pytest.raises(ValueError, match=message):
            keras_mixer.evaluate(model, data)
        with pytest.raises(ValueError, match=message):
            keras_mixer.few_shot(model, data, good)
    with pytest.raises(ValueError, match="The data set to evaluate on is empty"):
        keras_mixer.evaluate(model, [])
    for labels, message in [
        (np.eye(11)[ten[1]], r"one-hot rows \(B, 10\), got labels of shape \(\d+, 11\)"),
        (ten[1] + 1, "Labels run from 1 to 10, but the model has 10 classes"),
        (ten[1] - 1.0, "Labels run from -1 to 8, but the model has 10 classes"),
    ]:
        with pytest.raises(ValueError, match=message):
            keras_mixer.evaluate(model, (ten[0], labels))


def test_own_heads_give_probabilities_whatever_they_end_in(tiny_mixer, ten):
    """The usual fine-tune, with and without an activation, as Sequential and as functional model, nested or not."""
    images, labels = ten
    body = tiny_mixer(num_blocks=1, include_top=False, pooling="avg")
    head = keras.layers.Dense(10)
    logits = keras.Sequential([body, head])
    logits.build((None, 16, 16, 3))
    head.kernel.assign(0.1 * np.random.default_rng(0).normal(size=head.kernel.shape))
    scores = keras.ops.convert_to_numpy(logits(images)).astype(np.float64)
    for activation in ("softmax", "sigmoid"):
        expected = keras_mixer.anatomy.probabilities_of(scores, activation)
        loss = -np.log(expected[np.arange(70), labels]).mean()
        image = keras.Input((16, 16, 3))
        outputs = keras.layers.Activation(activation)(logits(image))
        declared = [keras.Model(image, outputs), keras.Model(image, getattr(keras.ops, activation)(logits(image)))]
        from_logits = keras.Model(image, logits(image))
        if activation == "sigmoid":
            from_logits.compile(loss=keras.losses.BinaryCrossentropy(from_logits=True))
        shared = keras.layers.Activation(activation)
        again = keras.Model(image, shared(keras.ops.log(shared(logits(image))))) if activation == "softmax" else None
        for model in filter(None, (*declared, from_logits, again)):
            assert keras_mixer.evaluate(model, (images, labels)).loss == pytest.approx(loss, rel=1e-4)


def test_one_sigmoid_output_is_the_probability_of_class_1(tiny_mixer, ten):
    images, labels = ten[0], ten[1] % 2
    for activation in ("sigmoid", None):
        model = tiny_mixer(num_blocks=1, classes=1, classifier_activation=activation)
        output = keras.ops.convert_to_numpy(model(images))[:, 0].astype(np.float64)
        probability = output if activation else 1 / (1 + np.exp(-output))
        for given in (labels, labels[:, None].astype(bool), np.eye(2)[labels]):
            result = keras_mixer.evaluate(model, (images, given))
            assert result.top1 == ((probability > 0.5) == labels).mean()
            of_label = np.where(labels == 1, probability, 1 - probability)
            assert result.loss == pytest.approx(-np.log(of_label).mean(), rel=1e-5)
            assert result.confusion.shape == (2, 2)


def test_outputs_of_unknown_meaning_are_refused(tiny_mixer, ten):
    class Own(keras.Model):
        def __init__(self, activation):
            super().__init__()
            self.body = tiny_mixer(num_blocks=1, classifier_activation=activation)

        def call(self, images):
            return self.body(images)

    assert keras_mixer.evaluate(Own("softmax"), ten).examples == 70
    image = keras.Input((16, 16, 3))
    features = tiny_mixer(num_blocks=1, include_top=False)
    for model, message in [
        (Own(None), "outputs from -.* to .* after own"),
        (keras.Model(image, keras.ops.log_softmax(tiny_mixer()(image))), "outputs from -"),
        (keras.Model(image, keras.layers.Dense(10, "relu")(keras.layers.Flatten()(image))), "outputs of relu"),
        (features, r"outputs of shape \(64, 4, 4, 32\)"),
        (keras.Model(image, [tiny_mixer()(image)] * 2), r"outputs of shape \[\(64, 10\), \(64, 10\)\]"),
    ]:
        with pytest.raises(ValueError, match=message):
            keras_mixer.evaluate(model, ten)


def test_a_second_evaluation_compiles_nothing(tiny_mixer, ten):
    class Counted(keras.layers.Layer):
        def call(self, x):
            traces.append(x)
            return x

    mixer, traces = tiny_mixer(num_blocks=1), []
    model = keras.Model(mixer.input, Counted()(mixer.output))
    batches = in_batches(*ten, size=5)[:12]
    keras_mixer.evaluate(model, batches)
    traces.clear()
    for _ in range(2):
        keras_mixer.evaluate(model, batches)
    assert not traces


@pytest.mark.parametrize(
    ("options", "scales"),
    [
        (
            {},
            [
                lambda x: x / 255,
                lambda x: x / 127.5 - 1,
                lambda x: (x / 255 - 0.45) / 0.22,
                lambda x: x - 128.0,
                lambda x: x * 256.0,
            ],
        ),
        (
            {"include_preprocessing": False},
            [lambda x: x, lambda x: x / 255, lambda x: (x / 255 - 0.45) / 0.22],
        ),
    ],
)
def test_pixels_out_of_range_are_remarked_on_once(tiny_mixer, ten, options, scales):
    mixer = tiny_mixer(num_blocks=1, **options)
    inner = keras.Sequential([keras.layers.RandomFlip(), keras.Sequential([mixer])])
    black, white = (-1, 1) if options else (0, 255)
    for scale in scales:
        data = scale(ten[0].astype(np.float32)), ten[1]
        for measure in (
            lambda data: keras_mixer.evaluate(mixer, data),
            lambda data: keras_mixer.evaluate(inner, data),
            lambda data: keras_mixer.few_shot(mixer, data, data, shots=(1,), seeds=(0,)),
        ):
            with pytest.warns(UserWarning, match=rf"expects {black} \(black\) to {white} \(white\)") as warned:
                result = measure(data)
            assert [str(warning.message) for warning in warned] == result.remarks()
            assert warned[0].filename == __file__


def test_pixels_that_may_be_right_are_not_remarked_on(tiny_mixer, ten):
    images, labels = ten
    plain, scaled = tiny_mixer(num_blocks=1), tiny_mixer(num_blocks=1, include_preprocessing=False)
    image = keras.Input((16, 16, 3))
    for model, pixels in [
        (plain, images),
        (plain, images * np.float32(1.3) - 30),  # as after resizing by a sharp kernel
        (plain, np.where(np.arange(70)[:, None, None, None] < 64, 0, images)),  # a batch of black images
        (plain, np.zeros_like(images)),
        (plain, np.full_like(images, 2)),
        (plain, np.minimum(images, 2)),  # very dark
        (scaled, images / np.float32(127.5) - 1),
        (scaled, np.ones(images.shape, np.float32)),
        (keras.Model(image, scaled(image / 127.5 - 1)), images),
        (keras.Sequential([keras.layers.Rescaling(2.0, -1.0), scaled]), images / np.float32(255)),
    ]:
        assert not keras_mixer.evaluate(model, (pixels, labels)).range_remark


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

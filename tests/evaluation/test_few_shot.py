import numpy as np
import pytest

import keras_mixer
from keras_mixer.evaluation.few_shot import least_squares


def oracle(features, labels, classes, l2, queries):
    """Scores by augmented least squares, written from the definition, independently of our decomposition."""
    features, queries = features.astype(np.float64), queries.astype(np.float64)
    mean, deviation = features.mean(0), np.sqrt(((features - features.mean(0)) ** 2).mean(0)) + 1e-5
    x, z = (np.hstack([(part - mean) / deviation, np.full((len(part), 1), 100.0)]) for part in (features, queries))
    y = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
    tall = np.vstack([x, np.sqrt(l2) * np.eye(x.shape[1])])
    kernel, *_ = np.linalg.lstsq(tall, np.vstack([y, np.zeros((x.shape[1], classes))]), rcond=None)
    return z @ kernel


@pytest.mark.parametrize(("images", "features"), [(20, 33), (32, 33), (33, 33), (34, 33), (90, 33), (500, 33)])
@pytest.mark.parametrize("l2", [2.0**10, 1.0])
def test_scores_equal_an_independent_float64_solution(rng, images, features, l2):
    labels = rng.integers(0, 7, images)
    x = rng.normal(size=(images, features)) * rng.uniform(0.1, 30, features) + rng.normal(size=features)
    x = x.astype(np.float32)
    queries = rng.normal(size=(50, features)).astype(np.float32) * 3
    scores = least_squares(x, labels, 7, l2)(queries)
    np.testing.assert_allclose(scores, oracle(x, labels, 7, l2, queries), rtol=0, atol=1e-8)


def test_a_feature_that_never_changes_does_no_harm(rng):
    x = rng.normal(size=(12, 5))
    x[:, 2] = 4.0
    assert np.isfinite(least_squares(x, np.arange(12) % 3, 3)(x)).all()


@pytest.fixture
def data(rng):
    """Three classes that differ in colour: 8 training images per class and 11 test images in total."""

    def batches(labels, size):
        images = rng.integers(0, 60, (len(labels), 16, 16, 3)).astype(np.uint8)
        images[np.arange(len(labels)), :, :, labels] += 120
        return [(images[i : i + size], labels[i : i + size]) for i in range(0, len(labels), size)]

    return batches(np.arange(24) % 3, 8), batches(np.arange(11) % 3, 8)


@pytest.mark.backends
def test_every_shot_and_seed_draws_as_the_official_code_does(tiny_mixer, data):
    model = tiny_mixer(num_blocks=1)
    train, test = data
    result = keras_mixer.few_shot(model, train, test, shots=np.array([1, 2, 25]), seeds=(0, 5))
    extractor = keras_mixer.feature_extractor(model, ["pre_logits"])

    def collect(batches):
        features = [np.asarray(extractor.predict_on_batch(images)["pre_logits"]) for images, _ in batches]
        return np.concatenate(features), np.concatenate([labels for _, labels in batches])

    (x, y), (queries, labels) = collect(train), collect(test)
    for column, seed in enumerate((0, 5)):
        generator = np.random.default_rng(seed)
        order = [generator.permutation(np.where(y == label)[0]) for label in range(3)]
        for shots in (1, 2, 25):
            chosen = np.concatenate([indices[:shots] for indices in order])
            expected = oracle(x[chosen], y[chosen], 3, 2.0**10, queries).argmax(1) == labels
            assert result.accuracy[shots][column] == expected.mean()
    assert result.support == {1: 3, 2: 6, 25: 24}
    assert result.mean(25) == 1.0
    assert (result.features, result.test_images, result.classes) == (32, 11, 3)


def test_test_images_without_finite_features_count_as_wrong(tiny_mixer, data):
    train, test = data
    model = tiny_mixer(num_blocks=1, include_preprocessing=False)
    train, test = ([(images / np.float32(127.5) - 1, labels) for images, labels in part] for part in (train, test))
    right = keras_mixer.few_shot(model, train, test, shots=(8,), seeds=(0,))
    test[0][0][:2] = np.nan
    test[0][0][2, 0, 0, 0] = np.inf
    result = keras_mixer.few_shot(model, train, test, shots=(8,), seeds=(0,))
    assert (right.mean(8), right.non_finite) == (1.0, 0)
    assert result.mean(8) == pytest.approx(8 / 11)
    assert (result.test_images, result.non_finite) == (11, 3)
    train = [(np.full(images.shape, np.nan, np.float32), labels) for images, labels in train]
    with pytest.raises(ValueError, match="24 of 24 training images have features that are not finite"):
        keras_mixer.few_shot(model, train, test)


def test_features_are_computed_once_for_all_shots_and_seeds(tiny_mixer, data):
    seen = []

    class Counted(list):
        def __iter__(self):
            for batch in super().__iter__():
                seen.append(len(batch[1]))
                yield batch

    train, test = data
    keras_mixer.few_shot(tiny_mixer(), Counted(train), Counted(test), layer="block_0")
    assert sum(seen) == 24 + 11


def test_mistakes_are_refused(tiny_mixer, data):
    model = tiny_mixer()
    train, test = data
    for options, message in [
        ({"l2": 0}, "l2 must be a finite number greater than 0, got 0"),
        ({"l2": float("nan")}, "l2 must be a finite number"),
        ({"shots": (0,)}, "shots must be one or more integers of at least 1, got .0,"),
        ({"seeds": ()}, "seeds must be one or more integers of at least 0"),
        ({"classes": 2}, "Training labels run from 0 to 2, but there are 2 classes"),
        ({"layer": "block_7"}, "Unknown features"),
    ]:
        with pytest.raises(ValueError, match=message):
            keras_mixer.few_shot(model, train, test, **options)
    with pytest.raises(ValueError, match="no images to compute test features"):
        keras_mixer.few_shot(model, train, [])

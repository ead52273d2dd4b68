import numpy as np
import pytest

import keras_mixer
from keras_mixer.evaluation.few_shot import least_squares


def oracle(features, labels, classes, l2, queries):
    """Scores by augmented least squares, written from the definition, independently of our solution."""
    features, queries = features.astype(np.float64), queries.astype(np.float64)
    mean, deviation = features.mean(0), np.sqrt(((features - features.mean(0)) ** 2).mean(0)) + 1e-5
    x, z = (np.hstack([(part - mean) / deviation, np.full((len(part), 1), 100.0)]) for part in (features, queries))
    y = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
    tall = np.vstack([x, np.sqrt(l2) * np.eye(x.shape[1])])
    kernel, *_ = np.linalg.lstsq(tall, np.vstack([y, np.zeros((x.shape[1], classes))]), rcond=None)
    return z @ kernel


@pytest.mark.parametrize("images", [20, 33, 34, 500])
@pytest.mark.parametrize("l2", [2.0**10, 1.0])
def test_scores_equal_an_independent_float64_solution(rng, images, l2):
    labels = rng.integers(0, 7, images)
    x = (rng.normal(size=(images, 33)) * rng.uniform(0.1, 30, 33) + rng.normal(size=33)).astype(np.float32)
    x[:, 2] = 4.0  # a feature that never changes
    queries = rng.normal(size=(50, 33)).astype(np.float32) * 3
    queries[:, 2] = 4.0
    scores = least_squares(x, labels, 7, l2)(queries)
    np.testing.assert_allclose(scores, oracle(x, labels, 7, l2, queries), rtol=0, atol=1e-8)


@pytest.fixture
def data(rng):
    """Three classes that differ in color: 8 training images per class and 11 test images, in [-1, 1]."""

    def batches(labels):
        images = rng.integers(0, 60, (len(labels), 16, 16, 3)).astype(np.float32)
        images[np.arange(len(labels)), :, :, labels] += 120
        return [(images[i : i + 8] / 127.5 - 1, labels[i : i + 8]) for i in range(0, len(labels), 8)]

    return batches(np.arange(24) % 3), batches(np.arange(11) % 3)


@pytest.mark.backends
def test_every_shot_and_seed_draws_as_the_official_code_does(tiny_mixer, data):
    model = tiny_mixer(num_blocks=1, include_preprocessing=False)
    train, test = map(iter, data)  # each image is seen once
    result = keras_mixer.few_shot(model, train, test, shots=np.array([1, 2, 25]), seeds=(0, 5), layer="block_0")
    extractor = keras_mixer.feature_extractor(model, "block_0")

    def collect(batches):
        features = [np.asarray(extractor.predict_on_batch(images)["block_0"]).mean((1, 2)) for images, _ in batches]
        return np.concatenate(features), np.concatenate([labels for _, labels in batches])

    (x, y), (queries, labels) = map(collect, data)
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


def test_test_images_without_finite_features_count_as_wrong_and_mistakes_are_refused(tiny_mixer, data):
    (train, test), model = data, tiny_mixer(num_blocks=1, include_preprocessing=False)
    test[0][0][:2] = np.nan
    test[0][0][2, 0, 0, 0] = np.inf
    with pytest.warns(UserWarning, match="3 of 11 images have outputs that are not finite"):
        result = keras_mixer.few_shot(model, train, test, shots=(8,), seeds=(0,))
    assert result.mean(8) == pytest.approx(8 / 11)
    assert (result.test_images, result.non_finite) == (11, 3)
    lost = [(np.full_like(images, np.nan), labels) for images, labels in train]
    with pytest.raises(ValueError, match="Training images have features that are not finite"):
        keras_mixer.few_shot(model, lost, test)
    with pytest.warns(UserWarning, match="the model expects -1"), pytest.warns(UserWarning, match="not finite"):
        keras_mixer.few_shot(model, [(images * 100, labels) for images, labels in train], test)
    for options, message in (
        ({"l2": 0}, "l2 must be greater than 0, got 0"),
        ({"shots": (0,)}, "shots must be greater than or equal to 1, got 0"),
        ({"seeds": ()}, "seeds must be one value or more"),
        ({"classes": 2}, "one-hot rows .B, 2., got labels from 0 to 2"),
        ({"layer": "block_7"}, "Unknown features"),
        ({"test": []}, "no images to compute test features"),
    ):
        with pytest.raises(ValueError, match=message):
            keras_mixer.few_shot(**({"model": model, "train": train, "test": test} | options))

"""Few-shot accuracy: a linear classifier on frozen features in closed form, as big_vision's `fewshot_lsr` defines it.

Shapes: N support images, D features, K classes.
"""

import dataclasses
from typing import Annotated

import numpy as np

from keras_mixer.evaluation.accuracy import pixel_range_of
from keras_mixer.evaluation.outputs import class_numbers, features_of, warn_of_nan, warn_of_range
from keras_mixer.features import feature_extractor
from keras_mixer.training.recipe import NOT_EMPTY, Count, CountFrom0, Positive, check

SHOTS, SEEDS, L2 = (1, 5, 10, 25), (0, 1, 2), 2.0**10
CONSTANT_FEATURE = 100.0  # large, so that l2 hardly shrinks its weight, the bias
SMALLEST_DEVIATION = 1e-5  # added to every feature's standard deviation


@dataclasses.dataclass(frozen=True)
class FewShot:
    """The result of `few_shot`.

    Attributes:
        accuracy: for each number of shots, the test accuracy of each seed.
        support: for each number of shots, the number of training images.
        test_images: number of test images.
        features: number of features D.
        classes: number of classes K.
        non_finite: number of test images with a feature that is NaN or infinite.
    """

    accuracy: dict[int, tuple[float, ...]]
    support: dict[int, int]
    test_images: int
    features: int
    classes: int
    non_finite: int

    def mean(self, shots) -> float:
        """Mean accuracy over the seeds."""
        return float(np.mean(self.accuracy[shots]))


def few_shot(model, train, test, *, classes=None, shots=SHOTS, seeds=SEEDS, l2=L2, layer="pre_logits", progress=False):
    """Accuracy of a linear classifier trained on the model's frozen features of a few images per class.

    The features of all images are computed once and kept in memory (4 (N + n) D bytes); every shot and seed draws from
    them. A class with fewer images than shots contributes all its images. Warns of pixels and of features that are not
    finite as `evaluate` does.

    Args:
        model: a Mixer of this package.
        train: images and labels to draw the shots from, in a form that `keras_mixer.evaluate` takes.
        test: images and labels to measure accuracy on, likewise.
        classes: number of classes; None for the largest label of `train` plus one.
        shots: training images per class, each at least 1.
        seeds: one draw of training images for each, at least 0.
        l2: regularization strength, greater than 0.
        layer: a layer name of `keras_mixer.feature_extractor`; grids are averaged over their tokens.
        progress: show progress bars on standard error.

    Returns:
        A `FewShot`.

    Raises:
        ValueError: a data set is empty or in another form, a label or an option is out of range, or a training image
            has features that are not finite (such test images count as wrong).

    Source: section 3 of arXiv 2105.01601 ("few-shot"); constants and draws of big_vision's evaluators/fewshot_lsr.py.

    Example:
        >>> keras_mixer.few_shot(model, train_batches, test_batches).mean(5)  # doctest: +SKIP
        0.87
    """
    l2 = check("l2", l2, Positive)
    shots = tuple(dict.fromkeys(check("shots", list(shots), Annotated[tuple[Count, ...], NOT_EMPTY])))
    seeds = check("seeds", list(seeds), Annotated[tuple[CountFrom0, ...], NOT_EMPTY])
    extractor, pixels = feature_extractor(model, [layer]), list[float]()
    support, support_labels = features_of(extractor, train, "training features", progress, pixels)
    if not np.isfinite(support).all():
        raise ValueError("Training images have features that are not finite, so no classifier can be fitted.")
    queries, labels = features_of(extractor, test, "test features", progress, pixels)
    classes = int(support_labels.max()) + 1 if classes is None else classes
    class_numbers(np.concatenate([support_labels, labels]), classes)
    finite = np.isfinite(queries).all(1)
    accuracy: dict[int, tuple[float, ...]] = dict.fromkeys(shots, ())
    for seed in seeds:
        generator = np.random.default_rng(seed)
        shuffled = [generator.permutation(np.flatnonzero(support_labels == label)) for label in range(classes)]
        for count in shots:
            chosen = np.concatenate([indices[:count] for indices in shuffled])
            scores = least_squares(support[chosen], support_labels[chosen], classes, l2)
            accuracy[count] += (float(np.mean(finite & (scores(queries).argmax(1) == labels))),)
    warn_of_range(pixels, pixel_range_of(model))
    return FewShot(
        accuracy=accuracy,
        support={count: int(np.minimum(np.bincount(support_labels), count).sum()) for count in shots},
        test_images=len(labels),
        features=queries.shape[1],
        classes=classes,
        non_finite=warn_of_nan(finite),
    )


def least_squares(features, labels, classes, l2=L2):
    """`(N, D), (N,) -> scores`, a function `(n, D) -> (n, K) float64` that minimizes |X W - Y|^2 + l2 |W|^2.

    X contains the standardized features and a constant one; Y is +1 for the class of an image and -1 for the others.

    Source: big_vision's evaluators/fewshot_lsr.py, which computes it in float32.
    """
    features = np.asarray(features, np.float64)
    mean, deviation = features.mean(0), features.std(0) + SMALLEST_DEVIATION

    def standardized(x):
        return np.pad((x - mean) / deviation, ((0, 0), (0, 1)), constant_values=CONSTANT_FEATURE)

    x = standardized(features)  # (N, D + 1)
    y = 2.0 * np.eye(classes)[np.asarray(labels)] - 1.0  # (N, K)
    kernel = np.linalg.solve(x.T @ x + l2 * np.eye(x.shape[1]), x.T @ y)  # (D + 1, K)
    return lambda queries: standardized(queries) @ kernel

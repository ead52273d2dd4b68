"""Accuracy and loss of a classifier over a data set, every example counted exactly once."""

import dataclasses
import sys

import numpy as np
from tqdm.auto import tqdm

from keras_mixer.evaluation.prediction import predict_batch

SMALLEST_PROBABILITY = 1e-12  # keeps the loss finite where float32 rounds a probability to 0


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Attributes:
        examples: number of images.
        top1: share whose most probable class is the label.
        top5: share whose label is among the five most probable classes.
        loss: mean of -log(probability of the label), natural logarithm.
        confusion: `(classes, classes)` int64; rows are labels, columns the most probable class.
    """

    examples: int
    top1: float
    top5: float
    loss: float
    confusion: np.ndarray

    def per_class(self) -> np.ndarray:
        """`(classes,) float64`: share right of each class, NaN for a class without examples."""
        totals = self.confusion.sum(1)
        return np.divide(np.diag(self.confusion), totals, out=np.full(len(totals), np.nan), where=totals > 0)


def evaluate(model, dataset, *, progress=False) -> Evaluation:
    """Runs a classifier over a data set, in bounded memory.

    Args:
        model: maps images `(B, H, W, channels)` to probabilities `(B, classes)`.
        dataset: batches `(images, labels)` with integer labels `(B,)`; the last may be smaller.
        progress: show a progress bar on standard error.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: the data set is empty, or a label is no class of the model.

    Source: ours; top-1 as in section 3 of arXiv 2105.01601.

    Example:
        >>> keras_mixer.evaluate(model, batches).top1  # doctest: +SKIP
        0.994
    """
    classes = model.output_shape[-1]
    confusion = np.zeros((classes, classes), np.int64)
    in_top5, loss = 0, 0.0
    for images, labels in tqdm(dataset, desc="evaluating", unit="batch", disable=not progress, file=sys.stderr):
        labels = np.asarray(labels)
        if labels.max() >= classes or labels.min() < 0:
            raise ValueError(f"Labels run from {labels.min()} to {labels.max()}, but the model has {classes} classes.")
        probabilities = np.asarray(predict_batch(model, images), np.float64)
        of_label = probabilities[np.arange(len(labels)), labels]
        loss -= np.log(np.maximum(of_label, SMALLEST_PROBABILITY)).sum()
        in_top5 += int(((probabilities > of_label[:, None]).sum(1) < 5).sum())
        np.add.at(confusion, (labels, probabilities.argmax(1)), 1)
    examples = int(confusion.sum())
    if not examples:
        raise ValueError("The data set to evaluate on is empty.")
    right = int(np.trace(confusion))
    return Evaluation(examples, right / examples, in_top5 / examples, float(loss / examples), confusion)

"""Accuracy and loss of a classifier over a data set, every example counted exactly once."""

import dataclasses
import sys

import numpy as np
from tqdm.auto import tqdm

from keras_mixer.description import describe, probabilities_of
from keras_mixer.evaluation.prediction import predict_batch
from keras_mixer.evaluation.ranking import NO_GUESS, OutputCheck, among_best, describe_outputs, guesses
from keras_mixer.mixer_model import MixerModel

SMALLEST_PROBABILITY = 1e-12  # keeps the loss finite where float32 rounds a probability to 0


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Of classes with the same probability the one with the lower index is ranked first. NaN is not ranked: an image is
    never correct where the probability of its label is NaN.

    Attributes:
        examples: number of images, including those whose outputs are not finite.
        top1: fraction whose most probable class is the label.
        top5: fraction whose label is among the five most probable classes.
        loss: mean of -log(probability of the label), natural logarithm; NaN where such a probability is.
        confusion: `(classes, classes)` int64; rows are labels, columns the most probable class. Images whose outputs
            are all NaN are left out.
        examples_per_class: `(classes,)` int64, number of images of each class.
        non_finite: number of images with an output that is NaN or infinite.
        constant: whether all images, of more than one, have the same output, as those of an untrained model.
    """

    examples: int
    top1: float
    top5: float
    loss: float
    confusion: np.ndarray
    examples_per_class: np.ndarray
    non_finite: int
    constant: bool

    def per_class(self) -> np.ndarray:
        """`(classes,) float64`: top-1 accuracy of each class, NaN for a class without examples."""
        totals = self.examples_per_class
        return np.divide(np.diag(self.confusion), totals, out=np.full(len(totals), np.nan), where=totals > 0)

    def remarks(self) -> list[str]:
        """Sentences for the user about outputs that are not finite or constant; empty for a sound model."""
        return describe_outputs(self.examples, self.non_finite, self.constant)


def evaluate(model, dataset, *, progress=False) -> Evaluation:
    """Runs a classifier over a data set, in bounded memory.

    Args:
        model: maps images `(B, H, W, channels)` to probabilities `(B, classes)`. Logits of a Mixer become probabilities
            by softmax, or by sigmoid where it was compiled with a binary cross-entropy.
        dataset: batches `(images, labels)` with integer labels `(B,)`; the last may be smaller. Pixels are those that
            the model takes: [0, 255], or [-1, 1] without preprocessing.
        progress: show a progress bar on standard error.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: the data set is empty, a label is no class of the model, or the model has no head.

    Source: ours; top-1 as in section 3 of arXiv 2105.01601.

    Example:
        >>> keras_mixer.evaluate(model, batches).top1  # doctest: +SKIP
        0.994
    """
    description = describe(model) if isinstance(model, MixerModel) else None  # any other gives probabilities
    if description is not None and description.output == "features":
        raise ValueError(f"Model {model.name!r} has no head, so there is no class to evaluate; see few_shot.")
    classes = model.output_shape[-1]
    confusion = np.zeros((classes, classes), np.int64)
    per_class = np.zeros(classes, np.int64)
    check = OutputCheck()
    in_top5, loss = 0, 0.0
    for images, labels in tqdm(dataset, desc="evaluating", unit="batch", disable=not progress, file=sys.stderr):
        labels = np.asarray(labels)
        if labels.max() >= classes or labels.min() < 0:
            raise ValueError(f"Labels run from {labels.min()} to {labels.max()}, but the model has {classes} classes.")
        probabilities = np.asarray(predict_batch(model, images), np.float64)
        if description is not None and description.output == "logits":
            probabilities = probabilities_of(probabilities, description.activation)
        of_label = probabilities[np.arange(len(labels)), labels]
        loss -= np.log(np.maximum(of_label, SMALLEST_PROBABILITY)).sum()
        in_top5 += int(among_best(probabilities, labels, 5).sum())
        guessed = guesses(probabilities)
        np.add.at(confusion, (labels[guessed != NO_GUESS], guessed[guessed != NO_GUESS]), 1)
        per_class += np.bincount(labels, minlength=classes)
        check.add(probabilities)
    examples = check.images
    if not examples:
        raise ValueError("The data set to evaluate on is empty.")
    return Evaluation(
        examples=examples,
        top1=int(np.trace(confusion)) / examples,
        top5=in_top5 / examples,
        loss=float(loss / examples),
        confusion=confusion,
        examples_per_class=per_class,
        non_finite=check.non_finite,
        constant=check.constant,
    )

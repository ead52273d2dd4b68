"""Accuracy and loss of a classifier on a data set, counting each example exactly once."""

import dataclasses

import numpy as np

from keras_mixer.data.pixel_range import PixelRange
from keras_mixer.evaluation.classifier import Classifier, pixel_range_of
from keras_mixer.evaluation.labelled import class_numbers
from keras_mixer.evaluation.outputs import (
    OutputCheck,
    among_best,
    count_guesses,
    describe_outputs,
    guesses,
    outputs_of,
)

SMALLEST_PROBABILITY = 1e-12  # keeps the loss finite if float32 rounds a probability to 0


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Among classes with the same probability, the one with the lower index ranks first. NaN is not ranked: an image whose
    label has probability NaN never counts as correct.

    Attributes:
        examples: number of images, including those whose outputs are not finite.
        top1: fraction of images whose most probable class is the label.
        top5: fraction of images whose label is among the five most probable classes.
        loss: mean of -log(probability of the label), natural logarithm; NaN if any such probability is.
        confusion: `(classes, classes)` int64; rows are labels, columns predicted classes. Images whose outputs are all
            NaN are left out.
        examples_per_class: `(classes,)` int64, number of images per class.
        non_finite: number of images with an output that is NaN or infinite.
        constant: whether there are at least two images and all have the same output, as with an untrained model.
        range_remark: a sentence if the pixels cannot be in the range that the model expects; else empty.
    """

    examples: int
    top1: float
    top5: float
    loss: float
    confusion: np.ndarray
    examples_per_class: np.ndarray
    non_finite: int
    constant: bool
    range_remark: str = ""

    def per_class(self) -> np.ndarray:
        """`(classes,) float64`: top-1 accuracy per class, NaN for a class without examples."""
        totals = self.examples_per_class
        return np.divide(np.diag(self.confusion), totals, out=np.full(len(totals), np.nan), where=totals > 0)

    def remarks(self) -> list[str]:
        """One sentence per problem with the pixels (range) or the outputs (not finite, constant); empty without any."""
        sentences = describe_outputs(self.examples, self.non_finite, self.constant)
        return [self.range_remark, *sentences] if self.range_remark else sentences


def evaluate(model, dataset, *, progress=False) -> Evaluation:
    """Measures accuracy and loss of a classifier on a data set, in bounded memory.

    Warns if the pixels cannot be in the range that the model expects, as far as its first layer tells.

    Args:
        model: maps images `(B, H, W, channels)` to probabilities `(B, classes)`; a single sigmoid output is the
            probability of class 1 of two. A last layer without activation gives logits, which become probabilities by
            softmax, or by sigmoid if the model has one output or was compiled with a binary cross-entropy.
        dataset: `(images, labels)` batches in a list, generator, `tf.data.Dataset` or `keras.utils.PyDataset`; or two
            arrays `(images, labels)`. Labels are class numbers `(B,)` or `(B, 1)`, also as floats, or one-hot rows
            `(B, classes)`. Pixels as the model expects them: a Mixer takes [0, 255], or [-1, 1] without preprocessing.
        progress: show a progress bar on standard error.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: the data set is empty or in another form (unbatched, weighted, soft labels), a label is out of
            range, or the outputs of the model are neither probabilities nor logits.

    Source: ours; top-1 as in section 3 of arXiv 2105.01601.

    Example:
        >>> keras_mixer.evaluate(model, batches).top1  # doctest: +SKIP
        0.994
    """
    classifier, pixels, check = Classifier(model), PixelRange(), OutputCheck()
    confusion = per_class = np.zeros(0, np.int64)
    in_top5, loss = 0, 0.0
    for outputs, labels in outputs_of(model, dataset, "evaluating", progress, pixels):
        probabilities = classifier.probabilities(outputs)
        classes = probabilities.shape[1]
        labels = class_numbers(labels, classes)
        if not check.images:
            confusion, per_class = np.zeros((classes, classes), np.int64), np.zeros(classes, np.int64)
        of_label = probabilities[np.arange(len(labels)), labels]
        loss -= np.log(np.maximum(of_label, SMALLEST_PROBABILITY)).sum()
        in_top5 += int(among_best(probabilities, labels, 5).sum())
        count_guesses(confusion, labels, guesses(probabilities))
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
        range_remark=pixels.warn(pixel_range_of(model)),
    )

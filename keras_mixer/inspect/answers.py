"""The answers of a classifier on test images: which images it gets wrong, and how sure it is of each."""

import dataclasses
from pathlib import Path

import numpy as np

from keras_mixer.data.batches import evaluation_batches
from keras_mixer.evaluation.outputs import NO_GUESS, class_numbers, count_guesses, guesses, outputs_of
from keras_mixer.inspect.saliency import saliency_maps

BATCH_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Answers:
    """One entry per test image, in the order of the split.

    Attributes:
        labels: `(N,) int64`, true classes.
        predicted: `(N,) int64`, most probable classes; NO_GUESS if all probabilities are NaN.
        confidence: `(N,) float32`, probability of the predicted class; NaN without one.
        rivals: `(N,) int64`, the true class of a wrong answer, the second most probable class of a right one.
        of_rival: `(N,) float32`, its probability.
    """

    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    rivals: np.ndarray
    of_rival: np.ndarray

    def confident_mistakes(self, count) -> np.ndarray:
        """Positions of at most `count` wrong answers, the most confident first."""
        wrong = np.flatnonzero((self.predicted != self.labels) & (self.predicted != NO_GUESS))
        return wrong[np.argsort(-self.confidence[wrong], kind="stable")][:count]

    def unsure_right_answers(self, count) -> np.ndarray:
        """Positions of at most `count` right answers, the least confident first."""
        right = np.flatnonzero(self.predicted == self.labels)
        return right[np.argsort(self.confidence[right], kind="stable")][:count]

    def confusion(self, classes) -> np.ndarray:
        """`(classes, classes) int64`: image counts, rows are labels and columns predictions."""
        counts = np.zeros((classes, classes), np.int64)
        count_guesses(counts, self.labels, self.predicted)
        return counts


@dataclasses.dataclass(frozen=True)
class Example:
    """One test image and the answer.

    Attributes:
        pixels: `(H, W, 3) uint8`, as the model sees it.
        saliency: `(H, W) float32`, positive where the image supports the predicted class against its rival.
        label: name of the true class.
        predicted: name of the predicted class.
        confidence: probability of the predicted class.
        rival: name of the true class of a wrong answer, of the second most probable class of a right one.
        of_rival: its probability.
        name: its file, or its position in the split.
    """

    pixels: np.ndarray
    saliency: np.ndarray
    label: str
    predicted: str
    confidence: float
    rival: str
    of_rival: float
    name: str


def answers_of(predictor, split, progress=False) -> Answers:
    """The answers of a classifier on every image of a split.

    Args:
        predictor: a `Predictor` of a Keras model with a head.
        split: a `Split` with the classes of the model.
        progress: show a progress bar on standard error.

    Raises:
        ValueError: a label is out of range.
    """
    classes = len(predictor.description.class_names)
    columns: list[tuple[np.ndarray, ...]] = []
    for probabilities, labels in outputs_of(predictor.model, _batches(predictor, split), "test images", progress):
        labels = class_numbers(labels, classes)
        predicted, rows = guesses(probabilities), np.arange(len(labels))
        confidence = np.where(predicted == NO_GUESS, np.nan, probabilities[rows, predicted])
        others = np.where(np.arange(classes) == labels[:, None], -np.inf, probabilities)
        rivals = np.where(predicted == labels, guesses(others), labels)
        columns.append((labels, predicted, confidence, rivals, probabilities[rows, rivals]))
    return Answers(*map(np.concatenate, zip(*columns, strict=True)))


def examples_at(predictor, split, answers, positions) -> list[Example]:
    """The images of a split at some positions, in the order of `positions`, each with its saliency map."""
    if not len(positions):
        return []
    chosen = np.zeros(split.size, bool)
    chosen[positions] = True
    ordered = np.flatnonzero(chosen)
    pixels = np.concatenate([images for images, _ in _batches(predictor, split.part(chosen)).as_numpy_iterator()])
    maps = saliency_maps(predictor.model, pixels, answers.predicted[ordered], answers.rivals[ordered])
    names = predictor.description.class_names
    found = {
        position: Example(
            pixels=image,
            saliency=activation,
            label=names[answers.labels[position]],
            predicted=names[answers.predicted[position]],
            confidence=float(answers.confidence[position]),
            rival=names[answers.rivals[position]],
            of_rival=float(answers.of_rival[position]),
            # Two levels: the file and its class. More could name folders of one machine.
            name="/".join(Path(split.files[position]).parts[-2:]) if split.files else f"test image {position}",
        )
        for position, image, activation in zip(ordered, pixels, maps, strict=True)
    }
    return [found[position] for position in positions]


def _batches(predictor, split):
    size, crop = predictor.description.input_shape[:2], predictor.description.evaluation_crop
    return evaluation_batches(split, image_size=size, batch_size=min(BATCH_SIZE, split.size), crop=crop)

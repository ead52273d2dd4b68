"""A model's outputs over a data set: computed in batches, ranked, and checked for signs of a broken model.

The highest value ranks first; among equal values the lower index does. NaN is not ranked. This is the order of
`np.argsort(-scores, kind="stable")` without NaN.
"""

import operator
import sys

import keras
import numpy as np
from tqdm.auto import tqdm

from keras_mixer.evaluation.labelled import batches_of, images_and_labels

NO_GUESS = -1


def outputs_of(model, dataset, description, progress=False, pixels=None):
    """Yields `(outputs, labels)` for each batch of a data set, as NumPy arrays with one row per image.

    Under `tf.distribute`, Keras's `predict_on_batch` runs the full batch on every replica and concatenates the results;
    only the first copy is kept.

    Args:
        model: a Keras model with one output or a dict of outputs.
        dataset: `(images, labels)` batches of any size, or another form that `batches_of` takes.
        description: label of the progress bar.
        progress: show a progress bar on standard error.
        pixels: a `PixelRange` that takes in all images.

    Raises:
        ValueError: the data set is none of these.
    """
    batches, count = batches_of(dataset)
    for batch in tqdm(batches, desc=description, total=count, unit="batch", disable=not progress, file=sys.stderr):
        images, labels = images_and_labels(batch)
        if pixels is not None:
            pixels.add(images)
        if len(images):
            outputs = keras.tree.map_structure(np.asarray, model.predict_on_batch(images))
            first_copy = operator.itemgetter(slice(len(images)))
            yield keras.tree.map_structure(first_copy, outputs), labels


def guesses(scores) -> np.ndarray:
    """`(B, classes) -> (B,) int64`: the class ranked first; NO_GUESS if all scores are NaN."""
    highest = np.fmax.reduce(scores, axis=1)  # NaN only if all are
    return np.where(np.isnan(highest), NO_GUESS, (scores == highest[:, None]).argmax(1))


def count_guesses(confusion, labels, guessed):
    """Adds `(B,)` labels (rows) and guesses (columns) to counts `(classes, classes)`, which can be gigabytes."""
    answered = guessed != NO_GUESS
    np.add.at(confusion, (labels[answered], guessed[answered]), 1)


def among_best(scores, labels, count) -> np.ndarray:
    """`(B, classes), (B,) int -> (B,) bool`: whether the label is among the top `count` classes."""
    labels = labels[:, None]
    of_label = np.take_along_axis(scores, labels, axis=1)  # (B, 1)
    before = (scores > of_label) | ((scores == of_label) & (np.arange(scores.shape[1]) < labels))
    return (before.sum(1) < count) & ~np.isnan(of_label[:, 0])


class OutputCheck:
    """Checks the outputs of an evaluation, batch by batch, for signs that the model is broken.

    Attributes:
        images: images seen so far.
        non_finite: images with an output that is NaN or infinite.
    """

    def __init__(self):
        self.images = 0
        self.non_finite = 0
        self._first = None
        self._all_equal = True

    @property
    def constant(self) -> bool:
        """Whether there were at least two images and all had the same output."""
        return self.images > 1 and self._all_equal

    def add(self, outputs):
        """Updates the counts with the outputs `(B, classes)` of a batch."""
        if self._first is None:
            self._first = outputs[0]
        self.images += len(outputs)
        self.non_finite += int((~np.isfinite(outputs)).any(1).sum())
        self._all_equal = self._all_equal and bool((outputs == self._first).all())


def describe_outputs(images, non_finite, constant) -> list[str]:
    """One sentence per problem with the outputs behind an accuracy; empty for a sound model."""
    sentences = []
    if non_finite:
        sentences.append(
            f"{non_finite:,} of {images:,} images have outputs that are not finite (NaN or infinity); NaN never counts "
            "as correct."
        )
    if constant:
        sentences.append(f"All {images:,} images have the same output: the model is untrained.")
    return sentences

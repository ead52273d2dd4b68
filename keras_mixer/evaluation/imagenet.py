"""The three test sets of an ImageNet-1k classifier: validation labels, ReaL, ImageNet-V2.

Source: ReaL: Beyer et al. 2020 (arXiv 2006.07159). ImageNet-V2: Recht et al. 2019 (arXiv 1902.10811).
"""

import dataclasses

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_mixer.data.prepared import prepared_split
from keras_mixer.data.splits import Split
from keras_mixer.evaluation.outputs import NO_GUESS, describe_outputs, guesses, outputs_of
from keras_mixer.imagenet_classes import imagenet_classes, same_classes

CLASSES = 1000
V2 = ("matched-frequency", "threshold-0.7", "topimages")


@dataclasses.dataclass(frozen=True)
class RealEvaluation:
    """The result of `evaluate_real`."""

    examples: int  # images with at least one label; only these count
    left_out: int  # images without labels
    top1: float  # fraction of examples whose most probable class is one of their labels; NaN never is
    non_finite: int  # images, with or without labels, with an output that is NaN or infinite

    def remarks(self) -> list[str]:
        """A sentence if outputs are not finite; empty for a sound model."""
        return describe_outputs(self.examples + self.left_out, self.non_finite)


def evaluate_real(model, dataset, *, progress=False) -> RealEvaluation:
    """ReaL accuracy: labels `(B, classes) bool` mark all correct classes; images without any are left out."""
    correct = images = examples = non_finite = 0
    for outputs, allowed in outputs_of(model, dataset, "evaluating", progress):
        guessed = guesses(np.asarray(outputs, np.float64))
        correct += int((allowed[np.arange(len(guessed)), guessed] & (guessed != NO_GUESS)).sum())
        examples += int(allowed.any(1).sum())
        images += len(guessed)
        non_finite += int((~np.isfinite(outputs)).any(1).sum())
    if not examples:
        raise ValueError("No image of the data set has a label.")
    return RealEvaluation(examples, images - examples, correct / examples, non_finite)


def labelled_split(name, part, data_dir=None) -> Split:
    """Images of a TFDS data set, each with one label; FileNotFoundError if it is not on disk."""
    return prepared_split(tfds.builder(name, data_dir=data_dir), part, ("label",), lambda element: element)


def real_split(data_dir=None) -> Split:
    """The validation images with all correct labels, `(1000,) bool`."""

    def multi_hot(element):
        labels = tf.reduce_any(element["real_label"][:, None] == tf.range(CLASSES, dtype=tf.int64), axis=0)
        return {"image": element["image"], "label": labels}

    builder = tfds.builder("imagenet2012_real", data_dir=data_dir)
    return prepared_split(builder, "validation", ("real_label",), multi_hot)


def check_classes(model):
    """Raises ValueError unless the model has the 1000 classes of ImageNet, in their order."""
    ids, names = tuple(one for one, _ in imagenet_classes(CLASSES)), getattr(model, "class_names", None)
    if model.output_shape[-1] != CLASSES or not same_classes(ids, names):
        raise ValueError(f"Expected the {CLASSES} classes of ImageNet-1k in order, got {names or 'others'!s:.80}.")

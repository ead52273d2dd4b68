"""The test sets of an ImageNet-1k classifier: validation labels, ReaL, ImageNet-V2.

Source: ReaL: Beyer et al. 2020 (arXiv 2006.07159). ImageNet-V2: Recht et al. 2019 (arXiv 1902.10811).
"""

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds

from keras_mixer.data.prepared import prepared_split
from keras_mixer.data.splits import Split
from keras_mixer.evaluation.outputs import NO_GUESS, guesses, outputs_of, warn_of_nan
from keras_mixer.weights.imagenet_classes import imagenet_classes, same_classes

CLASSES = 1000
SETS = {  # names in TensorFlow Datasets, the split, and the feature with one label or multiple
    "ImageNet": ("imagenet2012", "validation", "label"),
    "ReaL": ("imagenet2012_real", "validation", "real_label"),
    "V2 matched-frequency": ("imagenet_v2/matched-frequency", "test", "label"),
    "V2 threshold-0.7": ("imagenet_v2/threshold-0.7", "test", "label"),
    "V2 topimages": ("imagenet_v2/topimages", "test", "label"),
}


def split_of(name, data_dir=None) -> Split:
    """The images of one of the SETS with all correct labels, `(1000,) bool`; FileNotFoundError if it is not on disk."""
    data, part, feature = SETS[name]

    def multi_hot(labels):
        return tf.reduce_any(tf.reshape(labels, (-1, 1)) == tf.range(CLASSES, dtype=tf.int64), axis=0)

    return prepared_split(tfds.builder(data, data_dir=data_dir), part, feature, multi_hot)


def multi_label_accuracy(model, dataset, *, progress=False) -> tuple[float, int]:
    """The fraction of images whose most probable class is one of their labels, and how many images have labels.

    Labels `(B, classes)` bool mark all correct classes. Images without any are left out. NaN is never right.
    """
    rows = []
    for outputs, allowed in outputs_of(model, dataset, "evaluating", progress):
        guessed = guesses(outputs)
        right = allowed[np.arange(len(guessed)), guessed] & (guessed != NO_GUESS)
        rows.append((right, allowed.any(1), np.isfinite(outputs).all(1)))
    right, labelled, finite = map(np.concatenate, zip(*rows, strict=True))
    if not labelled.any():
        raise ValueError("No image of the data set has a label.")
    warn_of_nan(finite)
    return float(right[labelled].mean()), int(labelled.sum())


def check_classes(model):
    """Raises ValueError unless the model has the 1000 classes of ImageNet, in their order."""
    ids, names = tuple(one for one, _ in imagenet_classes(CLASSES)), getattr(model, "class_names", None)
    if model.output_shape[-1] != CLASSES or not same_classes(ids, names):
        raise ValueError(f"Expected the {CLASSES} classes of ImageNet-1k in order, got {names or 'others'!s:.80}.")

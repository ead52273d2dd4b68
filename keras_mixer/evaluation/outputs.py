"""A model's outputs or features over labelled images, in the forms that Keras users have them; how outputs are ranked.

The highest value ranks first; among equal values the lower index does. NaN is not ranked.
"""

import operator
import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from keras_mixer.features import feature_extractor
from keras_mixer.files import atomic_write, refuse_existing

ARRAY_BATCH_SIZE = 64  # images of arrays per batch
EXPECTED = "Expected (images, labels) batches, a tf.data.Dataset or PyDataset of them, or two arrays (images, labels)"
NO_GUESS = -1


def outputs_of(model, dataset, description, progress=False, pixels=None):
    """Yields `(outputs, labels)` for each batch of a data set, as NumPy arrays with one row per image.

    The data set is `(images, labels)` batches of any size, or two arrays; `pixels` is a `PixelRange` that takes in all.
    """
    infinite = isinstance(dataset, tf.data.Dataset) and int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY
    if infinite or (isinstance(dataset, keras.utils.PyDataset) and dataset.num_batches is None):
        raise ValueError("The data set is infinite, but each image is evaluated once: remove .repeat().")
    batches, count = dataset, None
    if isinstance(dataset, tuple | list) and dataset and hasattr(dataset[0], "shape"):
        arrays = _images_and_labels(dataset)
        places = [slice(i, i + ARRAY_BATCH_SIZE) for i in range(0, len(arrays[0]), ARRAY_BATCH_SIZE)]
        batches, count = (tuple(array[place] for array in arrays) for place in places), len(places)
    for batch in tqdm(batches, desc=description, total=count, unit="batch", disable=not progress, file=sys.stderr):
        images, labels = _images_and_labels(batch)
        if pixels is not None:
            pixels.add(images)
        if len(images):
            outputs = keras.tree.map_structure(np.asarray, model.predict_on_batch(images))
            # Under `tf.distribute`, every replica runs the full batch, and the results are concatenated.
            yield keras.tree.map_structure(operator.itemgetter(slice(len(images))), outputs), labels


def _images_and_labels(batch) -> tuple[np.ndarray, np.ndarray]:
    """A batch as NumPy arrays of the same length; each image counts once, so there must be no weights."""
    size = len(batch) if isinstance(batch, tuple | list) else 0
    if size != 2:
        weights = "weights too. Drop them, as by .map(lambda x, y, weight: (x, y))."
        raise ValueError(f"{EXPECTED}, got {weights if size == 3 else f'a {type(batch).__name__} as a batch.'}")
    images, labels = map(np.asarray, batch)
    if images.dtype.kind in "OSU":
        raise ValueError(f"Expected images of numbers, got {images.dtype}. Decode and resize them first.")
    if not images.ndim or not labels.ndim or len(images) != len(labels):
        raise ValueError(
            f"{EXPECTED}, got images of shape {images.shape} and labels of shape {labels.shape}. Single images need "
            ".batch(64)."
        )
    return images, labels


def class_numbers(labels, classes=None) -> np.ndarray:
    """Labels as `(B,) int64`: from integers, also as floats, `(B,)` or `(B, 1)`, or from one-hot rows `(B, classes)`.

    ValueError if they are neither, or not in [0, classes).
    """
    expected = f"Expected integer labels (B,) or one-hot rows (B, {classes or 'classes'}), got"
    if labels.dtype.kind not in "biuf":
        advice = " Class names become numbers by np.unique(names, return_inverse=True)."
        raise ValueError(f"{expected} {labels.dtype} labels.{advice if labels.dtype.kind in 'USO' else ''}")
    width = labels.shape[1] if labels.ndim == 2 else 1
    if labels.ndim > 2 or width not in (1, classes or width):
        raise ValueError(f"{expected} labels of shape {labels.shape}.")
    if width > 1 and (np.sort(labels, axis=1) != np.eye(width)[-1]).any():
        raise ValueError(f"{expected} rows of other values than one 1. Soft and multiple labels have no accuracy.")
    numbers = labels.argmax(1) if width > 1 else labels.reshape(-1)
    if not (np.isfinite(numbers) & (numbers == np.round(numbers))).all():
        raise ValueError(f"{expected} {numbers.dtype} labels that are not whole numbers.")
    numbers = numbers.astype(np.int64)
    if classes is not None and (numbers.min() < 0 or numbers.max() >= classes):
        raise ValueError(f"Labels run from {numbers.min()} to {numbers.max()}, but the model has {classes} classes.")
    return numbers


def features_of(extractor, batches, description, progress=False, mean=False, pixels=None):
    """`(N, ...) float32, (N,) int64`: the only feature of an extractor for all images, and their labels.

    `mean` averages grids over their tokens; the other arguments are those of `outputs_of`.
    """
    rows = []
    for outputs, labels in outputs_of(extractor, batches, description, progress, pixels):
        (feature,) = (np.asarray(output, np.float32) for output in outputs.values())
        if mean:
            feature = feature.reshape(len(feature), -1, feature.shape[-1]).mean(1)  # a vector is its own mean
        rows.append((feature, class_numbers(labels)))
    if not rows:
        raise ValueError(f"There are no images to compute {description} from.")
    return map(np.concatenate, zip(*rows, strict=True))


def write_features(model, batches, path, *, layer="pre_logits", class_names=(), progress=False):
    """Writes an `.npz` file with `features` `(N, ...)` float32, `labels` `(N,)` int64 and `class_names`.

    All features are kept in memory until the file is written, atomically. ValueError if it exists or does not end in
    .npz, or if the layer, named as in `keras_mixer.feature_extractor`, is unknown.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"Expected a path ending in .npz, got {path}.")
    refuse_existing(path)
    features, labels = features_of(feature_extractor(model, [layer]), batches, "features", progress)
    with atomic_write(path) as temporary:
        np.savez(temporary, features=features, labels=labels, class_names=np.array(class_names, "U"))


def guesses(scores) -> np.ndarray:
    """`(B, classes) -> (B,) int64`: the class ranked first; NO_GUESS if all scores are NaN."""
    highest = np.fmax.reduce(scores, axis=1)  # NaN only if all are
    return np.where(np.isnan(highest), NO_GUESS, (scores == highest[:, None]).argmax(1))


def count_guesses(confusion, labels, guessed):
    """Adds `(B,)` labels (rows) and guesses (columns) to counts `(classes, classes)`, which can be gigabytes."""
    answered = guessed != NO_GUESS
    np.add.at(confusion, (labels[answered], guessed[answered]), 1)


def describe_outputs(images, non_finite, constant=False) -> list[str]:
    """One sentence per problem with the outputs behind an accuracy; empty for a sound model."""
    broken = f"{non_finite:,} of {images:,} images have outputs that are not finite (NaN or infinity);"
    sentences = [f"{broken} NaN never counts as correct."] if non_finite else []
    return sentences + [f"All {images:,} images have the same output: the model is untrained."] * bool(constant)

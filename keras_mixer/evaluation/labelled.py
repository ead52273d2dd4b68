"""Labelled images in the forms that Keras users have them."""

import keras
import numpy as np
import tensorflow as tf

ARRAY_BATCH_SIZE = 64  # images of arrays per batch
EXPECTED = "Expected (images, labels) batches, a tf.data.Dataset or PyDataset of them, or two arrays (images, labels)"


def batches_of(dataset):
    """`(images, labels)` batches of a data set, and their number if only this function knows it, or None.

    Raises:
        ValueError: the data are infinite, or arrays that are not images and labels.
    """
    if isinstance(dataset, tf.data.Dataset) and int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise ValueError("The data set is infinite. Remove .repeat(): each image is evaluated once.")
    if isinstance(dataset, keras.utils.PyDataset) and dataset.num_batches is None:
        raise ValueError("The PyDataset is infinite. Give it a number of batches: each image is evaluated once.")
    if not isinstance(dataset, tuple | list) or not dataset or not hasattr(dataset[0], "shape"):
        return dataset, None
    images, labels = images_and_labels(dataset)
    starts = range(0, len(images), ARRAY_BATCH_SIZE)
    return ((images[i : i + ARRAY_BATCH_SIZE], labels[i : i + ARRAY_BATCH_SIZE]) for i in starts), len(starts)


def images_and_labels(batch) -> tuple[np.ndarray, np.ndarray]:
    """The images and labels of a batch as NumPy arrays of the same length.

    Raises:
        ValueError: it is not a batch of images and labels, or it has weights: an evaluation counts each image once.
    """
    if not isinstance(batch, tuple | list) or len(batch) not in (2, 3):
        size = f" of {len(batch)}" if isinstance(batch, tuple | list) else ""
        raise ValueError(f"{EXPECTED}, got a {type(batch).__name__}{size} as a batch.")
    if len(batch) == 3:
        raise ValueError(
            f"{EXPECTED}, got weights too. Each image counts once: drop them, as by .map(lambda x, y, weight: (x, y))."
        )
    images, labels = map(np.asarray, batch)
    if images.dtype.kind in "OSU":
        raise ValueError(
            f"Expected images of numbers and of one size, got {images.dtype}. Decode and resize them first."
        )
    if not images.ndim or not labels.ndim or len(images) != len(labels):
        raise ValueError(
            f"{EXPECTED}, got images of shape {images.shape} and labels of shape {labels.shape}. Single images need "
            ".batch(64)."
        )
    return images, labels


def class_numbers(labels, classes=None) -> np.ndarray:
    """Labels as `(B,) int64`: from integers, also as floats, `(B,)` or `(B, 1)`, or from one-hot rows `(B, classes)`.

    Args:
        labels: the labels of a batch.
        classes: number of classes; None if unknown.

    Raises:
        ValueError: they are neither, or not in [0, classes).
    """
    if labels.dtype.kind not in "biuf":
        names = (
            " Class names become numbers by np.unique(names, return_inverse=True)."
            if labels.dtype.kind in "USO"
            else ""
        )
        raise ValueError(f"Expected integer labels or one-hot rows, got {labels.dtype} labels.{names}")
    width = labels.shape[1] if labels.ndim == 2 else 1
    if labels.ndim > 2 or width not in (1, classes or width):
        rows = "one-hot rows" if classes is None else f"one-hot rows (B, {classes})"
        raise ValueError(f"Expected integer labels (B,) or {rows}, got labels of shape {labels.shape}.")
    if width > 1:
        if (np.sort(labels, axis=1) != np.eye(width)[-1]).any():
            raise ValueError(
                "Expected one-hot rows with a single 1, got other values. Soft and multiple labels have no accuracy."
            )
        return labels.argmax(1)
    numbers = labels.reshape(-1)
    if numbers.dtype.kind == "f" and not (np.isfinite(numbers) & (numbers == np.round(numbers))).all():
        raise ValueError(f"Expected integer labels, got {numbers.dtype} labels that are not whole numbers.")
    numbers = numbers.astype(np.int64)
    if classes is not None and (numbers.min() < 0 or numbers.max() >= classes):
        raise ValueError(f"Labels run from {numbers.min()} to {numbers.max()}, but the model has {classes} classes.")
    return numbers

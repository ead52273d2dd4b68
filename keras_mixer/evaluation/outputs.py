"""A model's outputs or features over labelled images, in the forms that Keras users have, and what is odd in them."""

import operator
import warnings

import keras
import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

ARRAY_BATCH_SIZE = 64  # images of arrays per batch
NO_GUESS = -1
LARGEST_SCALED = 3.0  # of pixels in [0, 1] or [-1, 1], or divided by their standard deviation
OVERSHOOT = 0.25  # how far resizing with a sharp kernel may leave the range of pixels, as a fraction of it


def outputs_of(model, dataset, description, progress=False, pixels=None):
    """Yields `(outputs, labels)` of each batch, one row per image; the lowest and highest pixels go to a list."""
    total, of_keras = getattr(dataset, "num_batches", None), isinstance(dataset, keras.utils.PyDataset)
    infinite = isinstance(dataset, tf.data.Dataset) and int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY
    if infinite or (of_keras and total is None):
        raise ValueError("The data set is infinite, but each image is evaluated once: remove .repeat().")
    dataset = map(dataset.__getitem__, range(dataset.num_batches)) if of_keras else dataset  # its own never ends
    if isinstance(dataset, tuple | list) and dataset and hasattr(dataset[0], "shape"):
        images, labels = _images_and_labels(dataset)
        starts = range(0, len(images), ARRAY_BATCH_SIZE)
        dataset = [(images[i : i + ARRAY_BATCH_SIZE], labels[i : i + ARRAY_BATCH_SIZE]) for i in starts]
    for batch in tqdm(dataset, description, total, unit="batch", disable=not progress):
        images, labels = _images_and_labels(batch)
        if pixels is not None and images.size:
            pixels += [np.fmin.reduce(images, None), np.fmax.reduce(images, None)]
        if len(images):
            outputs = keras.tree.map_structure(np.asarray, model.predict_on_batch(images))
            # Under `tf.distribute`, every replica runs the full batch, and the results are concatenated.
            yield keras.tree.map_structure(operator.itemgetter(slice(len(images))), outputs), labels


def _images_and_labels(batch) -> tuple[np.ndarray, np.ndarray]:
    """A batch as NumPy arrays of the same length; each image counts once, so there must be no weights."""
    arrays = tuple(map(np.asarray, batch)) if isinstance(batch, tuple | list) else ()
    if len(arrays) == 2 and all(array.ndim for array in arrays) and len(arrays[0]) == len(arrays[1]):
        return arrays
    found = " and ".join(f"shape {array.shape}" for array in arrays) or f"a {type(batch).__name__} as a batch"
    advice = "Single images need .batch(64); drop weights by .map(lambda x, y, weight: (x, y))."
    raise ValueError(f"Expected batches (images, labels), or two such arrays, got {found}. {advice}")


def class_numbers(labels, classes=None) -> np.ndarray:
    """Labels as `(B,) int64`: of numbers `(B,)` or `(B, 1)` in [0, classes), or one-hot rows; otherwise ValueError."""
    width = labels.shape[1] if labels.ndim == 2 else 1
    if labels.dtype.kind not in "biuf":
        found = f"{labels.dtype}. Class names become numbers by np.unique(names, return_inverse=True)"
    elif labels.ndim > 2 or width not in (1, classes or width):
        found = f"labels of shape {labels.shape}"
    elif width > 1 and (np.sort(labels, axis=1) != np.eye(width)[-1]).any():
        found = "rows of other values than one 1. Soft and multiple labels have no accuracy"
    else:
        numbers = labels.argmax(1) if width > 1 else labels.reshape(-1)
        found = f"labels from {numbers.min()} to {numbers.max()}"
        if (numbers % 1 == 0).all() and (classes is None or 0 <= numbers.min() <= numbers.max() < classes):
            return numbers.astype(np.int64)
    raise ValueError(f"Expected integer labels (B,) or one-hot rows (B, {classes or 'classes'}), got {found}.")


def features_of(extractor, batches, description, progress=False, pixels=None, vectors=True):
    """`(N, ...) float32, (N,) int64`: one feature of all images, grids averaged to `vectors` if so, and the labels."""
    rows = []
    for outputs, labels in outputs_of(extractor, batches, description, progress, pixels):
        (feature,) = (np.asarray(output, np.float32) for output in outputs.values())
        if vectors:
            feature = feature.reshape(len(feature), -1, feature.shape[-1]).mean(1)  # a vector is its own mean
        rows.append((feature, class_numbers(labels)))
    if not rows:
        raise ValueError(f"There are no images to compute {description} from.")
    return map(np.concatenate, zip(*rows, strict=True))


def guesses(scores) -> np.ndarray:
    """`(B, classes) -> (B,) int64`: the class ranked first; NO_GUESS if all scores are NaN."""
    highest = np.fmax.reduce(scores, axis=1)  # NaN only if all are
    return np.where(np.isnan(highest), NO_GUESS, (scores == highest[:, None]).argmax(1))


def confusion_of(labels, guessed, classes) -> np.ndarray:
    """`(N,), (N,) -> (classes, classes) int64`: how many images of each label (row) got each guess (column)."""
    answered = guessed != NO_GUESS
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (labels[answered], guessed[answered]), 1)
    return confusion


def warn_of_nan(finite) -> int:
    """The number of images whose outputs are not finite, `(N,) bool`; warns if there are any."""
    if found := int((~finite).sum()):
        told = f"{found:,} of {len(finite):,} images have outputs that are not finite (NaN or infinity); NaN is wrong."
        warnings.warn(told, stacklevel=3)
    return found


def warn_of_range(pixels, expected=(0, 255)):
    """Warns of pixels, or the extremes of batches, that cannot be right; `expected` is black and white, if known."""
    pixels = np.asarray(pixels)
    pixels = pixels[np.isfinite(pixels)]
    if expected is None or not pixels.size:
        return
    (black, white), lowest, highest = expected, float(pixels.min()), float(pixels.max())
    far_out = min(lowest - black, white - highest) < -OVERSHOOT * (white - black)
    scaled = lowest < highest <= LARGEST_SCALED < white
    halved = black == -white and lowest == 0 < highest  # 0 would be half of white, which uint8 pixels never are
    if far_out or ((scaled or halved) and not np.issubdtype(pixels.dtype, np.integer)):
        found = f"Pixels are {lowest:g} to {highest:g}, but the model expects {black:g} (black) to {white:g} (white)."
        warnings.warn(found, stacklevel=3)

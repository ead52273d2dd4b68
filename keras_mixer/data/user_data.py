"""Data from the caller's program as a `Source`: arrays, a `tf.data.Dataset`, or anything with a length and items."""

import dataclasses
import functools
import hashlib
import itertools
import sys

import numpy as np
import tensorflow as tf

from keras_mixer.data.decode import as_file, read_orientation
from keras_mixer.data.splits import Source, Split, rows_of, some, stratified_split
from keras_mixer.mixer_model import checked_class_names

OWN_DATA = "own data"
FINGERPRINTED = 64  # examples at most, evenly spaced
CARDINALITY = ".apply(tf.data.experimental.assert_cardinality(number of images))"
EXPECTED = "Expected arrays as a tuple (images, labels), or a tf.data.Dataset or a sequence of (image, label) examples"


def own_source(
    train, test=None, *, class_names=None, classes=None, test_fraction=0.2, split_seed=0, needs_order=False, log=print
) -> tuple[Source, str]:
    """The data that `fit` takes as a `Source`, and one line that identifies them; arrays are not copied.

    Without `test`, arrays are split by class, as `test_fraction` and `split_seed` say. `needs_order` refuses data of
    which two passes start with different examples. ValueError says what was found and expected.
    """
    names = None if class_names is None else checked_class_names(class_names)
    count = len(names) if names else classes
    if classes not in (None, count):
        raise ValueError(f"class_names has {count} names, but classes={classes}. Drop one of the two.")
    parts = [_part(name, data, count) for name, data in (("train", train), ("test", test)) if data is not None]
    splits = [split for split, _ in parts]
    labels = splits[0].labels() if isinstance(train, tuple) else None
    if test is None and labels is None:
        raise ValueError("Expected test data: only arrays are split automatically. Pass test= too.")
    if unordered := " and ".join(split.name for split, digest in parts if split.at is None and not digest):
        found = f"Two passes over {unordered} start with different examples"
        if needs_order:
            raise ValueError(f"{found}, but holdout and data_shards need a fixed order. Remove the shuffling.")
        log(f"{found}: parts of one shuffled dataset, by take and skip, share images. Split first, then shuffle.")
    count = max(split.classes for split in splits)
    if count < 2:
        raise ValueError(f"Expected two or more classes, got {count}.")
    if labels is not None and (empty := sorted(set(range(count)) - set(labels.tolist()))):
        log(f"No training image has the label {some(list(map(str, empty)))}; labels are counted from 0.")
    names = names or tuple(map(str, range(count)))
    sizes = (f"{split.name}: {split.size} images {digest}".strip() for split, digest in parts)
    described = f"{OWN_DATA} ({', '.join(sizes)}, {count} classes {_digest(names)})"
    splits = [dataclasses.replace(split, classes=count) for split in splits]
    if test is None:
        for_test = stratified_split(labels, test_fraction, split_seed)
        splits = [splits[0].part(~for_test), splits[0].part(for_test)]
    return Source(OWN_DATA, names, splits[0], splits[1]), described


def _part(name, data, count) -> tuple[Split, str]:
    """Training or test data in any form, and a digest of some examples, empty if two passes over them differ."""
    item, columns = None, {}
    if isinstance(data, tf.data.Dataset):
        size = int(data.cardinality())
    elif isinstance(data, tuple) and len(data) == 2:
        images, labels = _arrays(name, *data, count)
        size, item, columns = len(labels), lambda i: (images[i], labels[i]), {"label": labels}
        count = count or 1 + int(labels.max(initial=0))
    elif hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, dict | str):
        size, item = len(data), lambda i: data[int(i)]
    else:
        raise ValueError(f"{EXPECTED}; {name} is a {type(data).__name__}.")
    if not 0 < size < sys.maxsize:  # the length of Grain's endless data; those of tf.data have negative sizes
        raise ValueError(f"{name} is empty, infinite, or of unknown size. Remove .repeat(), or add {CARDINALITY}.")

    def some_examples():
        return map(item, range(0, size, size // FINGERPRINTED + 1)) if item else data.take(1).as_numpy_iterator()

    first = _checked(name, next(iter(some_examples()), None), count)
    if count is None:
        raise ValueError("The number of classes is known only for arrays. Pass class_names= or classes=.")
    read = functools.partial(_read, first=first, count=count, item=item)
    if item:
        rows = rows_of(columns)
        pixels = (*first.shape, 1)[:3] if columns and not isinstance(first, bytes) else None  # read n at once
        split = Split.indexed(size, count, lambda i: {"index": i} | rows(i), read, pixels=pixels, name=name)
    else:
        elements = data.map(lambda image, label: {"image": image, "label": tf.cast(tf.squeeze(label), tf.int64)})
        split = Split(size, count, elements, read, name=name)
    passes = (itertools.chain.from_iterable(some_examples()) for _ in range(2))
    digest, again = (_digest(itertools.chain(columns.values(), examples)) for examples in passes)
    return split, digest if digest == again else ""


def _arrays(name, images, labels, count):
    """Encoded images, or pixels of one size in memory or in a mapped file, and their labels, `(n,) int64`."""
    labels = _labels(name, labels, count)
    encoded = isinstance(next(iter(images), None), bytes)
    images = np.asarray(images, object if encoded else None)  # NumPy's own type of bytes cuts zeros off their ends
    if len(images) != len(labels):
        raise ValueError(f"{name} has {len(images):,} images but {len(labels):,} labels.")
    return images, labels


def _checked(name, example, count):
    """The image of the first example; ValueError unless it is one of the kinds that can be used."""
    if not isinstance(example, tuple | list) or len(example) != 2:
        raise ValueError(f"{EXPECTED}; the first of {name} is another {type(example).__name__}.")
    image, label = example
    if not isinstance(image, bytes):
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim < 2 or image.shape[2:] not in ((), (1,), (3,)):
            raise ValueError(
                f"Expected uint8 pixels (H, W, 3), (H, W, 1) or (H, W), or encoded bytes in {name}, got {image.dtype} "
                f"of shape {image.shape}. Convert floats in [0, 1] by np.round(255 * images).astype('uint8'), those in "
                f"[-1, 1] with 127.5 * (images + 1). Split batches by .unbatch() and {CARDINALITY}; for a folder of "
                "images pass data= instead of keras.utils.image_dataset_from_directory."
            )
    _labels(name, [label], count)
    return image


def _read(element, first, count, item):
    """An example of the kind of the first, or those of n indices: encoded bytes, or pixels `(..., H, W, C)`."""
    encoded = isinstance(first, bytes)

    def fetch(index):
        image, label = item(index)
        label = np.asarray(label).reshape(np.shape(index)).astype(np.int64, casting="same_kind")  # any integers
        return image if encoded else np.asarray(image), label

    if item:
        types = (tf.string if encoded else tf.uint8, tf.int64)
        image, label = tf.numpy_function(fetch, [element["index"]], types, stateful=False)
        shape = element["index"].shape
    else:
        image, label, shape = element["image"], element["label"], ()
    label = tf.ensure_shape(label, shape)
    in_range = tf.reduce_all((label >= 0) & (label < count))
    tf.debugging.Assert(in_range, [f"Expected labels from 0 to {count - 1}, got", label])
    if encoded:
        orientation = tf.numpy_function(lambda file: read_orientation(as_file(file)), [image], tf.int64, stateful=False)
        return {"image": tf.ensure_shape(image, ()), "label": label, "orientation": tf.ensure_shape(orientation, ())}
    image = tf.ensure_shape(image, (*shape, None, None, *first.shape[2:]))
    return {"image": image if first.ndim == 3 else image[..., None], "label": label}


def _labels(name, labels, count) -> np.ndarray:
    """`(n,) int64`."""
    labels = np.asarray(labels)
    if labels.shape[1:] == (1,):  # as in keras.datasets.cifar10
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"Expected one integer label per image in {name}, got {labels.dtype} of shape {labels.shape}. One-hot "
            "labels become integers by labels.argmax(-1), names by np.unique(labels, return_inverse=True)."
        )
    largest = labels.max(initial=0) if count is None else count - 1
    if labels.min(initial=0) < 0 or labels.max(initial=0) > largest:
        raise ValueError(f"Expected labels from 0 to {largest} in {name}, got {labels.min()} to {labels.max()}.")
    return labels.astype(np.int64)


def _digest(values) -> str:
    """Of encoded images, other arrays or names."""
    digest = hashlib.sha256()
    for array in map(np.asarray, values):
        digest.update(f"{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:8]

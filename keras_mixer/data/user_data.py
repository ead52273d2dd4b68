"""Data from the caller's program as a `Source`: arrays, a `tf.data.Dataset`, or anything with a length and items."""

import dataclasses
import hashlib
import itertools
import sys

import numpy as np
import tensorflow as tf

from keras_mixer.data.decode import as_file, read_orientation
from keras_mixer.data.splits import Source, Split, rows_of, some, stratified_split
from keras_mixer.mixer_model import checked_class_names

NAME = "own data"
FINGERPRINTED = 64  # examples at most, evenly spaced
CARDINALITY = ".apply(tf.data.experimental.assert_cardinality(number of images))"
BATCHES = (
    f"Split batches by .unbatch() and {CARDINALITY}. Instead of keras.utils.image_dataset_from_directory(folder), pass "
    "data=folder, which knows the names of the classes."
)
FORMS = (
    "Expected arrays as a tuple (images, labels), or (image, label) examples from a tf.data.Dataset (use .map) or an "
    "object with a length and items"
)
FLOATS = "Convert them: np.round(255 * images).astype('uint8') from [0, 1]; from [-1, 1] with 127.5 * (images + 1)."
IMAGES = "uint8 pixels (H, W, 3), (H, W, 1) or (H, W), or the bytes of an encoded image"
ENDLESS = sys.maxsize  # the length of Grain's endless data; tf.data has negative sizes for endless and unknown ones


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
    described = f"{NAME} ({', '.join(sizes)}, {count} classes {_digest(names)})"
    splits = [dataclasses.replace(split, classes=count) for split in splits]
    if test is None:
        for_test = stratified_split(labels, test_fraction, split_seed)
        splits = [splits[0].part(~for_test), splits[0].part(for_test)]
    return Source(NAME, names, splits[0], splits[1]), described


def _part(name, data, count) -> tuple[Split, str]:
    """Training or test data in any form, and their digest, empty if two passes differ. There are `count` classes."""
    if isinstance(data, tf.data.Dataset):
        form, size = _stream, int(data.cardinality())
    elif isinstance(data, tuple) and len(data) == 2:
        form, size = _arrays, np.size(data[1])
    elif hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, dict | str):
        form, size = _records, len(data)
    else:
        raise ValueError(f"{FORMS}; {name} is a {type(data).__name__}.")
    if not 0 < size < ENDLESS:
        raise ValueError(f"{name} is empty, infinite, or of unknown size. Remove .repeat(), or add {CARDINALITY}.")
    split, passes = form(name, data, count)
    if split.classes is None:
        raise ValueError("The number of classes is known only for arrays. Pass class_names= or classes=.")
    digest, again = map(_digest, passes)
    return split, digest if digest == again else ""


def _arrays(name, data, count):
    """Encoded images, or pixels of one size in memory or in a mapped file, of which n are read at once."""
    labels = _labels(name, data[1], count)
    encoded = isinstance(next(iter(data[0]), None), bytes)
    images = np.asarray(data[0], object if encoded else None)  # NumPy's own type of bytes cuts zeros off their ends
    if len(images) != len(labels):
        raise ValueError(f"{name} has {len(images):,} images but {len(labels):,} labels.")
    _check(name, (images[0], labels[0]), count)
    return _indexed(name, lambda i: (images[i], labels[i]), len(labels), count or 1 + int(labels.max()), labels)


def _records(name, data, count):
    """An object with a length whose items are (image, label), which are read one at a time, when they are needed."""

    def item(index):
        image, label = data[int(index)]
        label = np.squeeze(np.asarray(label)).astype(np.int64, casting="same_kind")  # integers of any type
        return image if isinstance(image, bytes) else np.asarray(image), label

    _check(name, data[0], count)
    return _indexed(name, item, len(data), count)


def _indexed(name, item, size, count, labels=None):
    """A split of the examples `item(index)`, and two passes over some. With `labels`, pixels are read n at once."""
    first, _ = item(0)
    types = (tf.string if isinstance(first, bytes) else tf.uint8, tf.int64)
    columns = {} if labels is None else {"label": labels}
    rows = rows_of(columns)

    def read(element):
        image, label = tf.numpy_function(item, [element["index"]], types, stateful=False)
        return _example(first, count, image, label, element["index"].shape)

    pixels = None if labels is None or isinstance(first, bytes) else (*first.shape, 1)[:3]
    split = Split.indexed(size, count, lambda i: {"index": i} | rows(i), read, pixels=pixels, name=name)
    spaced = range(0, size, size // FINGERPRINTED + 1)
    return split, (itertools.chain(columns.values(), *map(item, spaced)) for _ in range(2))


def _stream(name, data, count):
    """A `tf.data.Dataset` of single examples."""
    first_examples = [next(data.take(1).as_numpy_iterator()) for _ in range(2)]
    _check(name, first_examples[0], count)
    first, _ = first_examples[0]

    def read(element):
        return _example(first, count, element["image"], element["label"])

    elements = data.map(lambda image, label: {"image": image, "label": tf.squeeze(label)})
    return Split(len(data), count, elements, read, name=name), first_examples


def _check(name, example, count):
    """Raises ValueError unless the first example is one of the kinds that can be used."""
    if not isinstance(example, tuple | list) or len(example) != 2:
        found = f"{len(example)} parts" if isinstance(example, tuple | list) else type(example).__name__
        raise ValueError(f"{FORMS}; the first of {name} has {found}.")
    image, label = example
    if not isinstance(image, bytes):
        image = np.asarray(image)
        if image.dtype != np.uint8 or image.ndim < 2 or image.shape[2:] not in ((), (1,), (3,)):
            remedy = BATCHES if image.ndim in (1, 4) else FLOATS if image.dtype.kind == "f" else ""
            raise ValueError(f"Expected {IMAGES} in {name}, got {image.dtype} of shape {image.shape}. {remedy}".strip())
    _labels(name, [label], count)


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
    largest = labels.max() if count is None else count - 1
    if labels.min() < 0 or labels.max() > largest:
        raise ValueError(f"Expected labels from 0 to {largest} in {name}, got {labels.min()} to {labels.max()}.")
    return labels.astype(np.int64)


def _example(first, count, image, label, shape=()):
    """An example of the kind of the first, or those of an index `(n,)`: encoded bytes, or pixels `(..., H, W, C)`."""
    label = tf.ensure_shape(tf.cast(label, tf.int64), shape)
    in_range = tf.reduce_all((label >= 0) & (label < count))
    tf.debugging.Assert(in_range, [f"Expected labels from 0 to {count - 1}, got", label])
    if isinstance(first, bytes):
        orientation = tf.numpy_function(lambda file: read_orientation(as_file(file)), [image], tf.int64, stateful=False)
        return {"image": tf.ensure_shape(image, ()), "label": label, "orientation": tf.ensure_shape(orientation, ())}
    image = tf.ensure_shape(image, (*shape, None, None, *first.shape[2:]))
    return {"image": image if first.ndim == 3 else image[..., None], "label": label}


def _digest(values) -> str:
    """Of encoded images, other arrays or names."""
    digest = hashlib.sha256()
    for value in values:
        array = np.asarray(value)
        digest.update(value if isinstance(value, bytes) else f"{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:8]

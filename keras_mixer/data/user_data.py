"""Data from the caller's program as a `Source`: arrays, a `tf.data.Dataset`, or anything with a length and items."""

import contextlib
import dataclasses
import hashlib
import sys
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_mixer.data.decode import UPRIGHT, as_file, read_header
from keras_mixer.data.splits import Source, Split, evenly_spaced, rows_of, some, stratified_split
from keras_mixer.imagenet_classes import checked_class_names

NAME = "own data"
FINGERPRINTED = 64  # images, evenly spaced
EXPECTED = (
    "Expected arrays (images, labels), a tf.data.Dataset of (image, label) elements, or an object with a length whose "
    "items are (image, label), such as a grain.MapDataset"
)
NOT_RECORDS = (tuple, list, dict, str, bytes, np.ndarray, tf.Tensor)
PIXELS = "uint8 pixels (H, W, 3), (H, W, 1) or (H, W), or the bytes of an encoded image"
UNBATCH = (
    "Add .unbatch() and .apply(tf.data.experimental.assert_cardinality(number of images)). Instead of "
    "keras.utils.image_dataset_from_directory(folder), pass data=folder, which knows the names of the classes too."
)


def own_source(
    train, test=None, *, class_names=None, classes=None, test_fraction=0.2, split_seed=0, needs_order=False, log=print
) -> tuple[Source, str]:
    """The caller's data as a `Source`, and one line that identifies them; arrays are not copied.

    Args:
        train: data as `fit` takes them.
        test: likewise; None splits arrays by class.
        class_names: one per class, in label order; None for the numbers.
        classes: number of classes; None for the length of `class_names`, or the largest label of arrays plus 1.
        test_fraction: fraction of each class, in (0, 1), used for testing if there is no `test`.
        split_seed: seed that chooses those test images.
        needs_order: raise if two passes over `train` or `test` start with different examples.
        log: called with each remark.

    Raises:
        ValueError: the data are not usable; the message says what was found and expected.
    """
    names = None if class_names is None else checked_class_names(class_names)
    count = _count(names, classes)
    parts = [_part_of(name, data, count) for name, data in (("train", train), ("test", test)) if data is not None]
    if test is None and parts[0].labels is None:
        raise ValueError(f"Expected test data: only arrays are split automatically. Pass test= too. {EXPECTED}.")
    if unordered := [part.split.name for part in parts if part.digest is None]:
        found = f"Two passes over {' and '.join(unordered)} start with different examples"
        if needs_order:
            raise ValueError(
                f"{found}, but holdout and data_shards need a fixed order. Remove the shuffling (the recipe shuffles), "
                "or set both options to their defaults."
            )
        log(f"{found}: parts of one shuffled dataset, by take and skip, share images. Split first, then shuffle.")
    known = [part.labels for part in parts if part.labels is not None]
    if count is None:
        if len(known) < len(parts):
            raise ValueError("The number of classes is known only for arrays. Pass class_names= or classes=.")
        count = int(max(labels.max() for labels in known)) + 1
        if count < 2:
            raise ValueError("Expected labels of two or more classes, got only 0. Pass class_names= or classes=.")
    if parts[0].labels is not None and (empty := sorted(set(range(count)) - set(parts[0].labels.tolist()))):
        log(f"No training image has the label {some(list(map(str, empty)))}; labels are counted from 0.")
    names = names or tuple(map(str, range(count)))
    digest = hashlib.sha256("\0".join(names).encode()).hexdigest()[:8]
    sizes = (f"{part.split.name}: {part.split.size} images {part.digest or ''}".strip() for part in parts)
    described = f"{NAME} ({', '.join(sizes)}, {count} classes {digest})"
    splits = [dataclasses.replace(part.split, classes=count) for part in parts]
    if test is None:
        _, for_test = stratified_split(parts[0].labels, test_fraction, split_seed)
        chosen = np.isin(np.arange(splits[0].size), for_test)
        splits = [splits[0].part(~chosen), splits[0].part(chosen)]
    train, test = splits
    return Source(NAME, names, train, test), described


def _count(class_names, classes) -> int | None:
    """The number of classes, if given."""
    count = len(class_names) if class_names is not None else classes
    if classes not in (None, count):
        raise ValueError(f"class_names has {count} names, but classes={classes}. Drop one of the two.")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 2):
        raise ValueError(f"Expected two or more classes, got {count!r}.")
    return count


class Part(NamedTuple):
    """The training or test data: examples, digest (None: two passes differ), and labels if they are known."""

    split: Split
    digest: str | None
    labels: np.ndarray | None = None


def _part_of(name, data, count) -> Part:
    """Training or test data in any form; `count` is the number of classes, None if unknown."""
    if isinstance(data, tf.data.Dataset):
        return _stream(name, data, count)
    if hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, NOT_RECORDS):
        return _records(name, data, count)
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise ValueError(f"{name} is a {type(data).__name__}. {EXPECTED}.")
    images, labels = data
    return _arrays(name, images, labels, count)


def _arrays(name, images, labels, count) -> Part:
    try:
        images = images if _is_encoded(images) else np.asarray(images)
    except ValueError as error:
        raise ValueError(f"The images of {name} differ in size. Encode them as PNG, or use tf.data.") from error
    labels = _labels(name, labels, count)
    if len(images) != len(labels):
        raise ValueError(f"{name} has {len(images):,} images but {len(labels):,} labels.")
    digest = _digest([images[i] for i in evenly_spaced(len(images), FINGERPRINTED)], labels.tobytes())
    if isinstance(images[0], bytes):
        records = list(zip(images, labels, strict=True))
        return _records(name, records, count)._replace(digest=digest, labels=labels)
    _check_image(name, images[0])
    shape = (*images.shape[1:], 1)[:3]  # (H, W, C)

    def read(element):  # n elements at once
        index = element["index"]
        found = tf.numpy_function(lambda i: np.ascontiguousarray(images[i]), [index], tf.uint8, stateful=False)
        return {"image": tf.reshape(found, (*[-1] * index.shape.rank, *shape)), "label": element["label"]}

    at = rows_of({"index": np.arange(len(labels)), "label": labels})
    return Part(Split.indexed(len(labels), 0, at, read, pixels=shape, name=name), digest, labels)


def _is_encoded(images):
    """Whether images are a list or object array of bytes; arrays of dtype S lose trailing zero bytes."""
    listed = isinstance(images, list | tuple) or (isinstance(images, np.ndarray) and images.dtype == object)
    return listed and len(images) > 0 and all(isinstance(image, bytes) for image in images)


def _records(name, data, count) -> Part:
    """An object with a length whose items are (image, label), which are read one at a time, when they are needed."""
    size = len(data)
    _check_size(name, size, infinite=size == sys.maxsize)  # Grain's length of an endless dataset

    def record(index):
        found = data[int(index)]
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise ValueError(f"Expected (image, label) items in {name}, got {type(found).__name__}.")
        image, label = found
        return image if isinstance(image, bytes) else np.asarray(image), _labels(name, label, count, 0)

    first, _ = record(0)
    _check_image(name, first)
    shape = _any_size(first)

    def read(element):
        types = (tf.string if isinstance(first, bytes) else tf.uint8, tf.int64)
        image, label = tf.numpy_function(record, [element["index"]], types)
        return _example(tf.ensure_shape(image, shape), tf.ensure_shape(label, ()))

    split = Split.indexed(size, 0, lambda index: {"index": index}, read, name=name)
    return Part(split, _digest([record(index)[0] for index in evenly_spaced(size, FINGERPRINTED)]))


def _stream(name, dataset, count) -> Part:
    """A `tf.data.Dataset` of single examples."""
    size = int(dataset.cardinality())
    _check_size(name, size, infinite=size == tf.data.INFINITE_CARDINALITY)
    if not isinstance(dataset.element_spec, tuple) or len(dataset.element_spec) != 2:
        raise ValueError(f"Expected (image, label) elements in {name}, got {dataset.element_spec}. Use .map first.")
    image, _ = dataset.element_spec
    if image.shape.rank == (1 if image.dtype == tf.string else 4):
        raise ValueError(f"{name} gives batches of images. {UNBATCH}")
    if size == tf.data.UNKNOWN_CARDINALITY:
        raise ValueError(
            f"The size of {name} is unknown. Add .apply(tf.data.experimental.assert_cardinality(number of images)). A "
            "generator must start anew on each pass."
        )
    first, label = _first(name, dataset)
    again, _ = _first(name, dataset)
    _check_image(name, first)
    _labels(name, label, count, 0)

    def read(element):
        image, label = tf.ensure_shape(element["image"], _any_size(first)), tf.cast(element["label"], tf.int64)
        if count is not None:
            expected = [f"Expected labels from 0 to {count - 1} in {name}, got", label]
            with tf.control_dependencies([tf.debugging.Assert((label >= 0) & (label < count), expected)]):
                label = tf.identity(label)
        return _example(image, label)

    split = Split(size, 0, dataset.map(lambda image, label: {"image": image, "label": label}), read, name=name)
    return Part(split, _digest([first]) if _content(first) == _content(again) else None)


def _first(name, dataset):
    """The first element as NumPy values."""
    with contextlib.suppress(tf.errors.FailedPreconditionError):  # of assert_cardinality
        for image, label in dataset.take(1).as_numpy_iterator():
            return image if isinstance(image, bytes) else np.asarray(image), np.asarray(label)
    raise ValueError(f"{name} has no elements, or can be read only once. Pass a dataset that starts anew on each pass.")


def _check_size(name, size, infinite):
    if infinite:
        raise ValueError(f"{name} is infinite. Remove .repeat(): the recipe repeats the data.")
    if not size:
        raise ValueError(f"{name} is empty.")


def _labels(name, labels, count, ndim=1) -> np.ndarray:
    """`(n,) int64`, or `() int64` for the label of one example."""
    labels = np.asarray(labels)
    if ndim == 1 and labels.ndim == 2 and labels.shape[1] == 1:  # as in keras.datasets.cifar10
        labels = labels[:, 0]
    _check_size(name, labels.size, infinite=False)
    if labels.ndim != ndim:
        one_hot = " One-hot labels become integers by labels.argmax(-1)." if labels.ndim == ndim + 1 else ""
        raise ValueError(f"Expected one integer label per image in {name}, got shape {labels.shape}.{one_hot}")
    if not np.issubdtype(labels.dtype, np.integer):
        named = labels.dtype.kind in "OSUT"
        remedy = "Names become integers by names, labels = np.unique(labels, return_inverse=True)." if named else ""
        raise ValueError(f"Expected integer labels in {name}, got {labels.dtype}. {remedy or 'Convert them to int64.'}")
    if labels.min() < 0 or (count is not None and labels.max() >= count):
        end = f"to {count - 1}, because there are {count} classes" if count is not None else "on"
        raise ValueError(f"Expected labels from 0 {end}, got {labels.min()} to {labels.max()} in {name}.")
    return labels.astype(np.int64)


def _check_image(name, image):
    """Raises ValueError if the first image of the data is not one."""
    if isinstance(image, bytes):
        try:
            read_header(as_file(image))
        except Exception as error:  # Pillow raises many types
            raise ValueError(f"The first image of {name} cannot be decoded: {error}.") from error
        return
    shape, dtype = np.shape(image), np.asarray(image).dtype
    remedy = ""
    if np.issubdtype(dtype, np.floating):
        pixels = "images"
        if np.max(image, initial=0) <= 1:
            pixels = "127.5 * (images + 1)" if np.min(image, initial=0) < 0 else "255 * images"
        remedy = f" Convert them: np.round({pixels}).astype('uint8')."
    elif len(shape) == 3 and shape[-1] == 4:
        remedy = " Drop the alpha channel: images[..., :3]."
    if dtype != np.uint8 or len(shape) not in (2, 3) or (len(shape) == 3 and shape[-1] not in (1, 3)):
        raise ValueError(f"Expected {PIXELS} in {name}, got {dtype} of shape {shape}.{remedy}")
    if not np.size(image):
        raise ValueError(f"The first image of {name} has no pixels: its shape is {shape}.")


def _example(image, label):
    """The example of an image tensor: encoded bytes with their orientation, or pixels `(H, W, C)`."""
    if image.dtype == tf.string:
        orientation = tf.numpy_function(_orientation, [image], tf.int32, stateful=False)
        return {"image": image, "label": label, "orientation": tf.ensure_shape(orientation, ())}
    return {"image": image if image.shape.rank == 3 else image[..., None], "label": label}


def _orientation(encoded):
    try:
        return np.int32(read_header(as_file(encoded)).orientation)
    except Exception:  # decoding finds it too, and its error is named
        return np.int32(UPRIGHT)


def _any_size(image):
    """The static shape of images like this one."""
    return () if isinstance(image, bytes) else (None, None, *image.shape[2:])


def _content(image):
    return image if isinstance(image, bytes) else str(image.shape).encode() + np.ascontiguousarray(image).tobytes()


def _digest(images, labels=b""):
    return hashlib.sha256(labels + b"".join(map(_content, images))).hexdigest()[:8]

"""Data from the caller's program as a `Source`: arrays, a `tf.data.Dataset`, or anything with a length and items."""

import dataclasses
import hashlib
import sys

import numpy as np
import tensorflow as tf

from keras_mixer.data.decode import UPRIGHT, as_file, read_orientation
from keras_mixer.data.splits import Source, Split, rows_of, some, stratified_split
from keras_mixer.mixer_model import checked_class_names

NAME = "own data"
FINGERPRINTED = 64  # images at most, evenly spaced
EXPECTED = (
    "Expected arrays (images, labels), a tf.data.Dataset of (image, label) elements, or an object with a length whose "
    "items are (image, label), such as a grain.MapDataset"
)
NOT_RECORDS = (tuple, list, dict, str, bytes, np.ndarray, tf.Tensor)
PIXELS = "uint8 pixels (H, W, 3), (H, W, 1) or (H, W), or the bytes of an encoded image"
ENDLESS = (sys.maxsize, tf.data.INFINITE_CARDINALITY)  # the first is that of Grain
CARDINALITY = ".apply(tf.data.experimental.assert_cardinality(number of images))"


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
    if count is not None and count < 2:
        raise ValueError(f"Expected two or more classes, got {count}.")
    parts = [_part(name, data, count) for name, data in (("train", train), ("test", test)) if data is not None]
    splits = [split for split, _ in parts]
    labels = splits[0].labels() if isinstance(train, tuple | list) else None
    if test is None and labels is None:
        raise ValueError(f"Expected test data: only arrays are split automatically. Pass test= too. {EXPECTED}.")
    if unordered := " and ".join(split.name for split, digest in parts if digest is None):
        found = f"Two passes over {unordered} start with different examples"
        if needs_order:
            raise ValueError(f"{found}, but holdout and data_shards need a fixed order. Remove the shuffling.")
        log(f"{found}: parts of one shuffled dataset, by take and skip, share images. Split first, then shuffle.")
    if count is None:
        count = 1 + max(int(split.labels().max()) for split in splits)
        if count < 2:
            raise ValueError("Expected labels of two or more classes, got only 0. Pass class_names= or classes=.")
    if labels is not None and (empty := sorted(set(range(count)) - set(labels.tolist()))):
        log(f"No training image has the label {some(list(map(str, empty)))}; labels are counted from 0.")
    names = names or tuple(map(str, range(count)))
    sizes = (f"{split.name}: {split.size} images {digest or ''}".strip() for split, digest in parts)
    described = f"{NAME} ({', '.join(sizes)}, {count} classes {_digest([], names)})"
    splits = [dataclasses.replace(split, classes=count) for split in splits]
    if test is None:
        for_test = stratified_split(labels, test_fraction, split_seed)
        splits = [splits[0].part(~for_test), splits[0].part(for_test)]
    return Source(NAME, names, splits[0], splits[1]), described


def _part(name, data, count) -> tuple[Split, str | None]:
    """Training or test data in any form, and their digest: None if two passes differ. There are `count` classes."""
    if isinstance(data, tuple | list) and len(data) == 2:
        form, size = _arrays, np.size(data[1])
    elif isinstance(data, tf.data.Dataset):
        form, size = _stream, int(data.cardinality())
    elif hasattr(data, "__len__") and hasattr(data, "__getitem__") and not isinstance(data, NOT_RECORDS):
        form, size = _records, len(data)
    else:
        raise ValueError(f"{name} is a {type(data).__name__}. {EXPECTED}.")
    if size in ENDLESS:
        raise ValueError(f"{name} is infinite. Remove .repeat(): the recipe repeats the data.")
    if not size:
        raise ValueError(f"{name} is empty.")
    part = form(name, data, count)
    if count is None and form is not _arrays:  # after what is said of data that cannot be used, such as batches
        raise ValueError("The number of classes is known only for arrays. Pass class_names= or classes=.")
    return part


def _arrays(name, data, count) -> tuple[Split, str | None]:
    """Encoded images, or pixels of one size in memory or in a mapped file, of which n are read at once."""
    images, labels = data[0], _labels(name, data[1], count)
    if len(images) != len(labels):
        raise ValueError(f"{name} has {len(images):,} images but {len(labels):,} labels.")
    if not (isinstance(images, list | tuple) and isinstance(images[0], bytes)):  # NumPy cuts zeros off their ends
        try:
            images = np.asarray(images)
        except ValueError as error:
            raise ValueError(f"The images of {name} differ in size. Encode them as PNG, or use tf.data.") from error
    _check_image(name, images[0])
    shape = None if isinstance(images[0], bytes) else (*images.shape[1:], 1)[:3]

    def read(element):
        index, label = element["index"], element["label"]
        if shape is None:
            image = tf.numpy_function(lambda i: images[i], [index], tf.string, stateful=False)
            return _example(images[0], image, label)
        found = tf.numpy_function(lambda i: np.ascontiguousarray(images[i]), [index], tf.uint8, stateful=False)
        return {"image": tf.reshape(found, (*[-1] * index.shape.rank, *shape)), "label": label}

    at = rows_of({"index": np.arange(len(labels)), "label": labels})
    split = Split.indexed(len(labels), 0, at, read, pixels=shape, name=name)
    return split, _digest(images[:: len(images) // FINGERPRINTED + 1], labels)


def _records(name, data, count) -> tuple[Split, str]:
    """An object with a length whose items are (image, label), which are read one at a time, when they are needed."""

    def record(index):
        found = data[int(index)]
        if not isinstance(found, tuple | list) or len(found) != 2:
            raise ValueError(f"Expected (image, label) items in {name}, got {type(found).__name__}.")
        image, label = found
        return image if isinstance(image, bytes) else np.asarray(image), _labels(name, label, count, 0)

    first, _ = record(0)
    _check_image(name, first)
    types = (tf.string if isinstance(first, bytes) else tf.uint8, tf.int64)

    def read(element):
        return _example(first, *tf.numpy_function(record, [element["index"]], types))

    size = len(data)
    split = Split.indexed(size, 0, lambda index: {"index": index}, read, name=name)
    passes = ([value for i in range(0, size, size // FINGERPRINTED + 1) for value in record(i)] for _ in range(2))
    digest, again = map(_digest, passes)
    return split, digest if digest == again else ""  # data that change at random, but not their order


def _stream(name, data, count) -> tuple[Split, str | None]:
    """A `tf.data.Dataset` of single examples."""
    size = int(data.cardinality())
    if not isinstance(data.element_spec, tuple) or len(data.element_spec) != 2:
        raise ValueError(f"Expected (image, label) elements in {name}, got {data.element_spec}. Use .map first.")
    image, _ = data.element_spec
    if image.shape.rank == (1 if image.dtype == tf.string else 4):
        raise ValueError(
            f"{name} gives batches of images. Add .unbatch() and {CARDINALITY}. Instead of "
            "keras.utils.image_dataset_from_directory(folder), pass data=folder, which knows the names of the classes."
        )
    if size == tf.data.UNKNOWN_CARDINALITY:
        raise ValueError(f"The size of {name} is unknown. Add {CARDINALITY}. A generator must start anew on each pass.")
    try:
        (first, label), (again, _) = data.take(1).repeat(2).as_numpy_iterator()
    except (ValueError, tf.errors.FailedPreconditionError) as error:  # the latter of assert_cardinality
        found = "has no elements, or can be read only once. Pass a dataset that starts anew on each pass"
        raise ValueError(f"{name} {found}.") from error
    _check_image(name, first)
    _labels(name, label, count, 0)

    def read(element):
        label = tf.cast(element["label"], tf.int64)
        tf.debugging.Assert((label >= 0) & (label < count), [f"Expected labels from 0 to {count - 1}, got", label])
        return _example(first, element["image"], label)

    split = Split(size, 0, data.map(lambda image, label: {"image": image, "label": label}), read, name=name)
    return split, _digest([first]) if np.array_equal(first, again) else None


def _labels(name, labels, count, ndim=1) -> np.ndarray:
    """`(n,) int64`, or `() int64` for the label of one example."""
    labels = np.asarray(labels)
    if ndim == 1 and labels.ndim == 2 and labels.shape[1] == 1:  # as in keras.datasets.cifar10
        labels = labels[:, 0]
    remedy = "Convert them to int64."
    if labels.ndim == ndim + 1:
        remedy = "One-hot labels become integers by labels.argmax(-1)."
    elif labels.dtype.kind in "OSUT":
        remedy = "Names become integers by names, labels = np.unique(labels, return_inverse=True)."
    if labels.ndim != ndim or labels.dtype.kind not in "iu":
        raise ValueError(
            f"Expected one integer label per image in {name}, got {labels.dtype} of shape {labels.shape}. {remedy}"
        )
    if labels.min() < 0 or (count is not None and labels.max() >= count):
        end = f"to {count - 1}, because there are {count} classes" if count is not None else "on"
        raise ValueError(f"Expected labels from 0 {end}, got {labels.min()} to {labels.max()} in {name}.")
    return labels.astype(np.int64)


def _check_image(name, image):
    """Raises ValueError if the first image of the data is not one."""
    if isinstance(image, bytes):
        try:
            read_orientation(as_file(image))
        except Exception as error:  # Pillow raises many types
            raise ValueError(f"The first image of {name} cannot be decoded: {error}.") from error
        return
    image, remedy = np.asarray(image), ""
    if image.dtype.kind == "f":
        pixels = "images"
        if np.max(image, initial=0) <= 1:
            pixels = "127.5 * (images + 1)" if np.min(image, initial=0) < 0 else "255 * images"
        remedy = f" Convert them: np.round({pixels}).astype('uint8')."
    elif image.shape[2:] == (4,):
        remedy = " Drop the alpha channel: images[..., :3]."
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,)) or not image.size:
        raise ValueError(f"Expected {PIXELS} in {name}, got {image.dtype} of shape {image.shape}.{remedy}")


def _example(first, image, label):
    """The example of an image like the first: encoded bytes with their orientation, or pixels `(H, W, C)`."""
    label = tf.ensure_shape(label, ())
    if isinstance(first, bytes):
        orientation = tf.numpy_function(_orientation, [image], tf.int32, stateful=False)
        return {"image": tf.ensure_shape(image, ()), "label": label, "orientation": tf.ensure_shape(orientation, ())}
    image = tf.ensure_shape(image, (None, None, *first.shape[2:]))
    return {"image": image if first.ndim == 3 else image[..., None], "label": label}


def _orientation(encoded):
    try:
        return np.int32(read_orientation(as_file(encoded)))
    except Exception:  # decoding finds it too, and its error is named
        return np.int32(UPRIGHT)


def _digest(images, *others) -> str:
    """Of images, encoded or not, and of other arrays or names."""
    digest = hashlib.sha256()
    for value in (*others, *images):
        array = np.asarray(value)
        digest.update(value if isinstance(value, bytes) else f"{array.shape}".encode() + array.tobytes())
    return digest.hexdigest()[:8]

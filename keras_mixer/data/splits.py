"""The parts of a data set. Each yields the same kind of example, so all later steps are the same.

An example has an `"image"`, which is encoded bytes or pixels `(H, W, C) uint8`, and an int64 `"label"`; where encoded
images may be turned, also their EXIF `"orientation"`.
"""

import contextlib
import dataclasses
import itertools
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from keras_mixer.data.decode import image_of, reason_of
from keras_mixer.mixer_model import checked_class_names

ADVICE = "Fix or remove such files, or leave them out with --skip-corrupt."
# Cores that this process may use; containers and job schedulers often grant fewer than the machine has.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
BATCHES_AHEAD = 2  # batches in preparation or waiting

# Decorates a function that calls `Dataset.map`: TensorFlow rewrites the Python `if` and `for` of all that is mapped.
# Ours need none of that (they use tf.cond), and it takes 1.3 s at the start of a training.
as_written = tf.autograph.experimental.do_not_convert


def prefetch(dataset) -> tf.data.Dataset:
    """`dataset.prefetch` without tf.data's autotuning of threads and buffers."""
    options = tf.data.Options()
    options.autotune.enabled = False  # closing an iterator waits for its thread: 17 s after 20 epochs of digits
    return dataset.prefetch(BATCHES_AHEAD).with_options(options)


@dataclasses.dataclass(frozen=True)
class Split:
    """One part of a data set."""

    size: int  # examples
    classes: int
    elements: tf.data.Dataset  # in a fixed order: what `read` needs, and "label" if that is known before, as dicts
    read: Callable  # element -> example
    at: Callable | None = None  # positions, () or (n,) int64 -> elements; None if they can only be read in order
    pixels: tuple[int, int, int] | None = None  # (H, W, C), if `at` and `read` also take n at a time: (n, H, W, C)
    files: tuple[Any, ...] = ()  # the `ImageFile` of each element, if examples are single files
    name: str = ""  # for messages
    read_shard: Callable | None = None  # (count, index) -> Split that is read without the rest; None: by position

    @classmethod
    def indexed(cls, size, classes, at, read, **options) -> "Split":
        """A split whose elements can be read in any order."""
        elements = tf.data.Dataset.range(size).map(as_written(at))
        return cls(size, classes, elements, read, at, **options)

    def shard(self, count, index) -> "Split":
        """Shard `index` of `count` shards of about equal size, which together contain every example once."""
        if self.read_shard is not None and count > 1:
            return self.read_shard(count, index)
        return self.part(np.arange(self.size) % count == index)

    def part(self, chosen) -> "Split":
        """The examples at the positions where `chosen`, `(size,)` bool, is true."""
        size, at = int(chosen.sum()), self.at
        if size == self.size:
            return self
        if at is None:
            chosen_at = tf.constant(chosen)
            kept = self.elements.enumerate().filter(lambda position, element: chosen_at[position])
            elements = kept.map(lambda position, element: element).apply(tf.data.experimental.assert_cardinality(size))
            return dataclasses.replace(self, size=size, elements=elements, read_shard=None)
        positions = tf.constant(np.flatnonzero(chosen), tf.int64)
        options = {"files": tuple(itertools.compress(self.files, chosen)), "pixels": self.pixels, "name": self.name}
        return Split.indexed(size, self.classes, lambda i: at(tf.gather(positions, i)), self.read, **options)

    def subsample(self, count) -> "Split":
        """`count` examples, or all if there are fewer, from everywhere in the split."""
        return self.part(spread(self.size, min(count, self.size)))

    def labels(self) -> np.ndarray:
        """`(size,) int64`: the labels in order, without reading images if the elements have labels."""
        if self.at is not None and "label" in self.elements.element_spec:
            return self.at(tf.range(self.size, dtype=tf.int64))["label"].numpy()
        labels = self.elements.map(lambda element: (element if "label" in element else self.read(element))["label"])
        return np.concatenate(list(prefetch(labels.batch(1024)).as_numpy_iterator())).astype(np.int64)

    @as_written
    def unusable(self) -> dict[int, str]:
        """Why examples cannot be used, by their positions; decodes all images, as training and evaluation do."""
        corners = iter(self.elements.map(lambda element: image_of(self.read(element))[0, 0, 0], CORES))
        reasons = {}
        for i in progress(range(self.size)):
            try:
                next(corners, None)
            except tf.errors.OpError as error:  # in the place of the element; the next ones follow
                file = self.files and f"{self.name}/{self.files[i].path}"
                reasons[i] = f"{file or f'image {i} of {self.name}, counted from 0'}: {reason_of(error)}"
        return reasons


@dataclasses.dataclass(frozen=True)
class Source:
    """A named data set."""

    name: str
    class_names: tuple[str, ...]  # in label order
    train: Split
    test: Split

    def __post_init__(self):
        object.__setattr__(self, "class_names", checked_class_names(self.class_names))


@contextlib.contextmanager
def naming_damaged_files(*splits):
    """Raises `damaged_files` if the block fails because an image of the splits cannot be decoded."""
    try:
        yield
    except tf.errors.ResourceExhaustedError:
        raise
    except tf.errors.OpError as error:
        if reasons := [reason for split in splits for reason in split.unusable().values()]:
            raise damaged_files(reasons, ADVICE if splits[0].files else "") from error
        raise


def damaged_files(reasons, advice=ADVICE) -> ValueError:
    """An error that names up to 20 damaged files."""
    if len(reasons) == 1:
        return ValueError(f"An image cannot be used: {reasons[0]}. {advice}".strip())
    named = some(reasons, 20, "\n  ")
    return ValueError(f"{len(reasons):,} images cannot be used:\n  {named}\n{advice}".strip())


def progress(items):
    """The items, with a progress bar if there are more than 10,000."""
    return tqdm(items, "checking images", leave=False, file=sys.stderr, disable=len(items) <= 10_000)


def pixels_split(images, labels, classes):
    """A `Split` of pixels in memory, `(N, H, W, C) uint8`, and their class numbers."""
    columns = {"image": images, "label": np.asarray(labels, np.int64)}
    return Split.indexed(len(images), classes, rows_of(columns), lambda element: element, pixels=images.shape[1:])


def rows_of(columns):
    """The `at` of a split whose elements are rows of arrays."""
    with tf.device("CPU:0"):
        tensors = {name: tf.constant(column) for name, column in columns.items()}
    return lambda positions: {name: tf.gather(tensor, positions) for name, tensor in tensors.items()}


def spread(size, count) -> np.ndarray:
    """`(size,) bool`: a random place in each of `count` stretches; examples may be sorted, or labels repeat in turn."""
    ends = np.arange(count + 1) * size // max(count, 1)
    return np.isin(np.arange(size), np.random.default_rng(0).integers(ends[:-1], ends[1:]))


def stratified_split(labels, test_fraction, seed=0):
    """`(n,) -> (n,) bool`: which examples are for testing, the same fraction of each class, chosen by the seed."""
    from sklearn.model_selection import train_test_split  # takes 1 s, needed only here

    places = np.arange(len(labels))
    _, test = train_test_split(places, test_size=test_fraction, stratify=labels, random_state=seed)
    return np.isin(places, test)


def some(names, most=3, separator=", ") -> str:
    """The first of some names, which may be those of files, and how many more there are."""
    more = [f"and {len(names) - most:,} more"] if len(names) > most else []
    text = separator.join([*names[:most], *more])
    return os.fsencode(text).decode(errors="replace")  # bytes that are not UTF-8 cannot be printed

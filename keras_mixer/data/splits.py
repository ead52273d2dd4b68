"""The parts of a data set. Each yields the same kind of example, so all later steps are the same.

An example is `{"image": encoded bytes, "label": int64}`, and `"orientation"`, that of EXIF, where images may be turned.
"""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mixer.class_names import checked_class_names
from keras_mixer.data.parallel import prefetch

MOST_CLASSES = 20  # in a line


@dataclasses.dataclass(frozen=True)
class Split:
    """One part of a data set.

    Attributes:
        size: number of examples.
        elements: `tf.data.Dataset` of small elements (paths or encoded bytes) in a fixed order, to be shuffled.
        read: maps an element to an example.
        files: path of the image file of each element, in order; empty if examples are not single files. Strings: a
            `Path` for each of 70,000 files takes seconds.
        read_shard: `(count, index) -> Split`, if a shard can be read without the rest; None shards by position.
        pixels: maps an element to its `(H, W, C) uint8` pixels, where that costs less than to decode what `read` gives.
        changes: whether an example may be another one when it is read again, as a generator's may.
    """

    size: int
    elements: tf.data.Dataset
    read: Callable
    files: tuple[str, ...] = ()
    read_shard: Callable | None = None
    pixels: Callable | None = None
    changes: bool = False

    def shard(self, count, index) -> "Split":
        """Shard `index` of `count` shards of about equal size, which together contain every example once."""
        if count == 1:
            return self
        if self.read_shard is not None:
            return self.read_shard(count, index)
        size = len(range(index, self.size, count))
        return dataclasses.replace(
            self, size=size, elements=self.elements.shard(count, index), files=self.files[index::count]
        )

    def part(self, chosen) -> "Split":
        """The examples at the positions where `chosen`, `(size,)` bool, is true."""
        chosen_at = tf.constant(chosen)
        kept = self.elements.enumerate().filter(lambda position, element: chosen_at[position])
        size = int(chosen.sum())
        elements = kept.map(lambda position, element: element).apply(tf.data.experimental.assert_cardinality(size))
        files = tuple(file for file, keep in zip(self.files, chosen, strict=True) if keep) if self.files else ()
        return dataclasses.replace(self, size=size, elements=elements, files=files, read_shard=None)

    def labels(self) -> np.ndarray:
        """`(size,) int64`: the labels in order, without reading images if the elements have labels."""
        if self.files:  # their elements are small: batched first, they take a tenth of the time
            labels = self.elements.batch(1024).map(lambda elements: elements["label"])
        else:
            labels = self.elements.map(lambda element: (element if "label" in element else self.read(element))["label"])
            labels = labels.batch(1024)
        return np.concatenate(list(prefetch(labels).as_numpy_iterator())).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Source:
    """A named data set.

    Attributes:
        name: of the data set.
        class_names: in label order.
        train: the training split.
        test: the test split.
        folder: of the image files, if there are any.
        images: the `ImageFile` of each image in the folder, also of those that are in no split.
    """

    name: str
    class_names: tuple[str, ...]
    train: Split
    test: Split
    folder: str = dataclasses.field(default="", kw_only=True)
    images: tuple[Any, ...] = dataclasses.field(default=(), kw_only=True)

    def classes(self) -> str:
        """The classes in a line, those of image files with the numbers of images."""
        shown, title = list(self.class_names), "Classes"
        if self.images:
            title = "Images per class (training + test)"
            train, test = (np.bincount(part.labels(), minlength=len(shown)) for part in (self.train, self.test))
            shown = [f"{name} {train[i]:,} + {test[i]:,}" for i, name in enumerate(shown)]
        more = [f"and {len(shown) - MOST_CLASSES:,} more"] if len(shown) > MOST_CLASSES else []
        return f"{title}: {', '.join(shown[:MOST_CLASSES] + more)}"

    def __post_init__(self):
        object.__setattr__(self, "class_names", checked_class_names(self.class_names))


def file_split(files, labels, orientations=None):
    """A `Split` of image files.

    Args:
        files: paths.
        labels: their class numbers, in the same order.
        orientations: that of EXIF for each file; None uses all images as stored.
    """
    paths = tuple(map(os.fspath, files))
    # Bytes, because a path need not be UTF-8.
    columns = {"path": np.array([os.fsencode(path) for path in paths], "S"), "label": np.array(labels, np.int64)}
    if orientations is not None:
        columns["orientation"] = np.array(orientations, np.int32)
    return Split(len(paths), tf.data.Dataset.from_tensor_slices(columns), read=_read_file, files=paths)


def hold_out(source: Source, fraction) -> Source:
    """Replaces the test split by held-out training examples, to choose settings without using the test split.

    Args:
        source: the data set.
        fraction: of the training examples, in (0, 1); evenly spaced, so that classes stay balanced if sorted by class.

    Source: the paper holds out 1 to 10 % (section 3), in the order of the data sets.
    """
    held_out = held_out_places(source.train.size, fraction)
    if not held_out.any() or held_out.all():
        raise ValueError(
            f"holdout={fraction} of {source.train.size} training images leaves nothing to train on, or nothing to test "
            "on."
        )
    return dataclasses.replace(source, train=source.train.part(~held_out), test=source.train.part(held_out))


def held_out_places(size, fraction) -> np.ndarray:
    """`(size,) bool`: which of `size` examples `hold_out` takes.

    A fraction that gives almost a whole number, such as 0.0833333 for 1/12, counts as the exact one, which would
    otherwise take the neighbors of all examples.
    """
    wanted = size * fraction
    if abs(wanted - round(wanted)) < 0.05:
        fraction = round(wanted) / size
    counts = np.floor(np.arange(size + 1) * fraction + 1e-9)  # (size + 1,): number held out of the first i
    return np.diff(counts) > 0


def stratified_split(labels, test_fraction, seed=0):
    """`(n,) -> (n_train,), (n_test,)`: sorted indices, the same fraction of each class, determined by the seed.

    Raises:
        ValueError: a class has a single example, or the test split would be too small to contain every class.
    """
    from sklearn.model_selection import train_test_split  # takes 1 s, needed only here

    indices = np.arange(len(labels))
    try:
        train, test = train_test_split(indices, test_size=test_fraction, stratify=labels, random_state=seed)
    except ValueError as error:
        raise ValueError(f"{len(labels)} images cannot be split into training and test by class: {error}") from error
    return np.sort(train), np.sort(test)


def _read_file(element):
    return {"image": tf.io.read_file(element["path"]), **{k: v for k, v in element.items() if k != "path"}}

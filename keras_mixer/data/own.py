"""Data from the caller's program: arrays, a `tf.data.Dataset`, a `PyDataset` or Grain's `MapDataset` as a `Source`."""

import hashlib

from keras_mixer.class_names import checked_class_names
from keras_mixer.data.own_forms import EXPECTED, array_split, part_of
from keras_mixer.data.splits import Source, stratified_split

NAME = "own data"


def own_source(
    train, test=None, *, class_names=None, classes=None, test_fraction=0.2, split_seed=0, needs_order=False
) -> tuple[Source, str]:
    """The caller's data as a `Source`, and one line that identifies them; arrays are not copied.

    Args:
        train: arrays `(images, labels)`, a finite `tf.data.Dataset` of (image, label) elements, a
            `keras.utils.PyDataset` of (images, labels) batches, or an object with a length whose items are
            (image, label), such as a `grain.MapDataset`. Images are uint8 pixels `(H, W, 3)`, `(H, W, 1)` or `(H, W)`,
            or encoded bytes; labels are integers from 0.
        test: likewise; None splits arrays by class.
        class_names: one per class, in label order; None for the numbers.
        classes: number of classes; None for the length of `class_names`, or the largest label of arrays plus 1.
        test_fraction: fraction of each class, in (0, 1), used for testing if there is no `test`.
        split_seed: seed that chooses those test images.
        needs_order: raise if two passes over `train` or `test` start with different examples.

    Raises:
        ValueError: the data are not usable; the message says what was found and expected.
    """
    names = None if class_names is None else checked_class_names(class_names)
    count = _count(names, classes)
    parts = [part_of("train", train, count)]
    if test is not None:
        parts.append(part_of("test", test, count))
    elif parts[0].labels is None:
        raise ValueError(f"Expected test data: only arrays are split automatically. Pass test= too. {EXPECTED}.")
    for name, part in zip(("train", "test"), parts, strict=False):
        if needs_order and not part.ordered:
            raise ValueError(
                f"Two passes over {name} start with different examples, but holdout and data_shards need a fixed "
                "order. Remove its shuffling (the recipe shuffles), or set both options to their defaults."
            )
    known = [part.labels for part in parts if part.labels is not None]
    if count is None:
        if len(known) < len(parts):
            raise ValueError("The number of classes is known only for arrays. Pass class_names= or classes=.")
        count = int(max(labels.max() for labels in known)) + 1
        if count < 2:
            raise ValueError("Expected labels of two or more classes, got only 0. Pass class_names= or classes=.")
    names = names or tuple(map(str, range(count)))
    digest = hashlib.sha256("\0".join(names).encode()).hexdigest()[:8]
    described = f"{NAME} ({', '.join(part.description for part in parts)}, {count} classes {digest})"
    splits = [part.split for part in parts]
    if test is None:
        chosen = stratified_split(parts[0].labels, test_fraction, split_seed)
        splits = [array_split(parts[0].images, parts[0].labels, indices) for indices in chosen]
    return Source(NAME, names, *splits), described


def _count(class_names, classes) -> int | None:
    """The number of classes, if given."""
    count = len(class_names) if class_names is not None else classes
    if classes not in (None, count):
        raise ValueError(f"class_names has {count} names, but classes={classes}. Drop one of the two.")
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 2):
        raise ValueError(f"Expected two or more classes, got {count!r}.")
    return count

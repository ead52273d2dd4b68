"""ImageNet's classes by number: their ids and names, and the best of them for a batch of probabilities."""

import functools
import gzip
from importlib import resources

import keras
import numpy as np

SUBSETS = {1000: "k", 21843: "g", 11221: "m"}  # letters in the third column of the file, which is sorted by ids


@functools.cache
def imagenet_classes(count) -> tuple[tuple[str, str], ...]:
    """`(WordNet id, name)` of each of the 1,000, 21,843 or 11,221 classes, in order.

    Source: WordNet 3.0, timm's `data/_info` for the subsets, and `keras.applications` for the names of the 1,000.
    """
    packed = (resources.files("keras_mixer") / "wordnet" / "imagenet_classes.txt.gz").read_bytes()
    rows = (line.split() for line in gzip.decompress(packed).decode("ascii").splitlines())
    return tuple((wordnet_id, name) for wordnet_id, name, subsets in rows if SUBSETS[count] in subsets)


def spellings(names) -> tuple[tuple[str, ...], ...]:
    """All tuples that name the same classes in the same order: ImageNet's by WordNet ids and by names."""
    both = tuple(zip(*imagenet_classes(len(names)), strict=True)) if len(names) in SUBSETS else ()
    return both if names in both else (names,)


def same_classes(names, others) -> bool:
    """Whether two tuples, or None, can name the same classes; numbers name any."""
    if None in (names, others):
        return True
    return others in spellings(names) or tuple(map(str, range(len(names)))) in (names, others)


def decode_predictions(probabilities, top=5):
    """The most probable ImageNet classes of each image, in the form of `keras.applications` for its 1,000 classes.

    Args:
        probabilities: `(B, 1000)` for ImageNet-1k, `(B, 21843)` for the ImageNet-21k of Google's checkpoints, or
            `(B, 11221)` for that of the `miil` checkpoints; an array or a tensor.
        top: number of classes to return per image, at least 1.

    Returns:
        One list per image of tuples `(WordNet id, name, probability)`, most probable first.

    Raises:
        ValueError: `probabilities` has another shape, or `top` is less than 1.

    Example:
        >>> keras_mixer.decode_predictions(np.eye(1, 1000), top=1)[0][0][:2]
        ('n01440764', 'tench')
    """
    shape = tuple(probabilities.shape)
    if len(shape) != 2 or shape[1] not in SUBSETS:
        raise ValueError(f"Expected the probabilities of {' or '.join(map(str, SUBSETS))} classes, got shape {shape}.")
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top!r}.")
    classes = imagenet_classes(shape[1])
    rows = keras.ops.convert_to_numpy(probabilities)
    best = np.argsort(-rows, axis=1, kind="stable")[:, :top]
    return [[(*classes[i], row[i]) for i in order] for row, order in zip(rows, best, strict=True)]

"""Subsets of the training data: equally many images per class, deterministic."""

import dataclasses

import numpy as np

from keras_mixer.data.splits import Source


def with_training_images(source: Source, count, seed=0) -> Source:
    """The source with `count` of its training images, equally many per class as far as there are enough.

    Args:
        source: the data; its labels are read once.
        count: number of training images.
        seed: of the draw. A larger count adds images to those of a smaller one.

    Raises:
        ValueError: the source has fewer.
    """
    if not 1 <= count <= source.train.size:
        raise ValueError(f"{source.name} has {source.train.size} training images; {count} cannot be taken.")
    chosen = np.zeros(source.train.size, bool)
    chosen[draw(source.train.labels(), count, seed)] = True
    return dataclasses.replace(source, train=source.train.part(chosen))


def draw(labels, count, seed=0) -> np.ndarray:
    """`(n,) -> (count,)`: sorted indices, drawn from the classes in turn, each class in shuffled order."""
    generator = np.random.default_rng(seed)
    shuffled = generator.permutation(len(labels))
    rank = np.empty(len(labels), np.int64)  # first, second, ... of its class
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank[members] = np.arange(len(members))
    order = shuffled[np.argsort(rank[shuffled], kind="stable")]
    return np.sort(order[:count])

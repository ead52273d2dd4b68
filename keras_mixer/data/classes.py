"""Labels go by name: those of a data set become the numbers of a model's classes."""

import dataclasses

import tensorflow as tf

from keras_mixer.data.splits import Source
from keras_mixer.imagenet_classes import SUBSETS, imagenet_classes


def with_classes_of(source: Source, class_names, log=print) -> Source:
    """The data with the classes of a model, logged if they have only some; ImageNet's may be named by WordNet ids."""
    found, known = source.class_names, tuple(class_names)
    if not known:  # a model without a head
        return source
    for spelled in (known, *_spellings(known)):
        if found == spelled:
            return dataclasses.replace(source, class_names=known)
        if set(found) < set(spelled) and all(spelled.count(name) == 1 for name in found):
            log(f"{source.name} has {len(found)} of the {len(known)} classes of the model: {', '.join(found[:20])}.")
            return _relabelled(source, known, [spelled.index(name) for name in found])
    raise ValueError(
        f"Data {source.name!r} has other classes than the model: {len(found)} ({', '.join(found[:3])}, ...) and "
        f"{len(known)} ({', '.join(known[:3])}, ...). Pass data with the same classes, in the same order."
    )


def _spellings(class_names):
    """The WordNet ids and the names of ImageNet's classes, if these are they."""
    both = tuple(zip(*imagenet_classes(len(class_names)), strict=True)) if len(class_names) in SUBSETS else ()
    return both if class_names in both else ()


def _relabelled(source, class_names, numbers):
    table = tf.constant(numbers, tf.int64)

    def relabelled(split):
        def renamed(element):
            return {**element, "label": tf.gather(table, element["label"])}

        at = split.at and (lambda positions: renamed(split.at(positions)))
        elements = split.elements.map(renamed)
        return dataclasses.replace(split, elements=elements, at=at, classes=len(class_names), read_shard=None)

    train, test = relabelled(source.train), relabelled(source.test)
    return dataclasses.replace(source, class_names=class_names, train=train, test=test)

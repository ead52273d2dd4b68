"""The data that a finished run is looked at on: its own, as it recorded them, or others.

Labels go by name: those of a data set become the numbers of a model's classes.
"""

import dataclasses

import tensorflow as tf

from keras_mixer.data.image_folder import FILES, TEST, read_files
from keras_mixer.data.sources import image_folder
from keras_mixer.data.splits import Source, some
from keras_mixer.imagenet_classes import spellings
from keras_mixer.training.inputs import recorded_source
from keras_mixer.training.recipe import Recipe


def run_source(folder, recipe: Recipe, *, log=print, **options) -> Source:
    """The data of a run, with the images that were set aside for testing when it started; logs what has changed."""
    record = read_files(folder / FILES)
    source, changed = recorded_source(recipe, record, log=log, **options)
    if changed:
        known = sum(image.part == TEST for image in record)
        log(
            f"The images in {recipe.data} have changed since this run was trained: {changed}. {source.test.size} are "
            f"tested, {known} were recorded."
        )
    if source.images and not record:
        log(f"{folder} has no files.csv: its test images are drawn anew, and may have been trained on.")
    if not source.test.size:
        raise ValueError(f"None of the test images of {folder} is left in {recipe.data}.")
    return source


def wants_own_data(folder, own: Recipe, wanted: Recipe) -> bool:
    """Whether the wanted data are the run's own, or a folder elsewhere with most of its images; ValueError if gone."""
    images = image_folder(wanted.data, wanted.train_split, wanted.test_split, log=lambda line: None)
    if wanted.test_split == own.test_split:
        return wanted.data == own.data or bool(images and images.holds(read_files(folder / FILES)))
    if images and not (images.path / wanted.test_split).is_dir():
        raise ValueError(f"There is no folder {images.path / wanted.test_split}.")
    return False


def with_classes_of(source: Source, class_names, log=print) -> Source:
    """The data with the classes of a model, logged if they have only some; ImageNet's may be named by WordNet ids."""
    found, known = source.class_names, tuple(class_names)
    if not known or ((len(known), len(found)) == (1, 2) and known[0] in ("1", found[1])):
        return source  # no head, or one output: the probability of class 1
    for spelled in spellings(known):
        if found == spelled:
            return dataclasses.replace(source, class_names=known)
        if set(found) <= set(spelled) and all(spelled.count(name) == 1 for name in found):
            log(f"{source.name} has {len(found)} of the {len(known)} classes of the model: {some(found, 20)}.")
            table = tf.constant([spelled.index(name) for name in found], tf.int64)
            train, test = (_relabelled(split, table, len(known)) for split in (source.train, source.test))
            return dataclasses.replace(source, class_names=known, train=train, test=test)
    raise ValueError(
        f"Data {source.name!r} has other classes than the model: {len(found)} ({', '.join(found[:3])}, ...) and "
        f"{len(known)} ({', '.join(known[:3])}, ...). Pass data with the same classes, or, if the model has "
        "no names for its classes, set model.class_names = (...) and save it again."
    )


def _relabelled(split, table, classes):
    """Label i of the elements of a split becomes `table[i]`."""

    def renamed(element):
        return {**element, "label": tf.gather(table, element["label"])}

    at = split.at and (lambda positions: renamed(split.at(positions)))
    return dataclasses.replace(split, elements=split.elements.map(renamed), at=at, classes=classes, read_shard=None)

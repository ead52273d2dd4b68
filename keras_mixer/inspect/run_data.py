"""The data that a finished run is looked at on: its own, as it recorded them, or others.

Labels go by name: those of a data set become the numbers of a model's classes.
"""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_mixer.data.batches import evaluation_batches
from keras_mixer.data.image_folder import TEST
from keras_mixer.data.sources import image_folder, load_source
from keras_mixer.data.splits import Source, naming_damaged_files, some
from keras_mixer.training.inputs import recorded_source
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.recipes import RECIPES, resolve
from keras_mixer.training.run import FILES, read_files, read_recipe
from keras_mixer.weights.imagenet_classes import spellings

BATCH_SIZE = 64


def source_for(path: Path, class_names, given, *, only_test=False, log=print, **options) -> tuple[Source, Recipe, bool]:
    """The data that a run or a model is looked at on, the recipe that names them, and whether they are the run's own.

    Own data are tested on the images that were set aside when the run started; of others, all images are test images
    if `only_test`. All have the classes of the model. `given` replaces fields of the run's recipe.
    """
    is_run, record = (path / "config.json").is_file(), read_files(path / FILES)
    if not is_run and "data" not in given:
        raise ValueError(f"{path} is not a run, which would know its test data. Pass them with --data.")
    own = read_recipe(path) if is_run else RECIPES["digits"]  # whose batch size suits any model
    recipe = resolve(own, **given)
    if is_own := _are_own(record, own, recipe) and is_run:  # also of a model, to refuse a folder that is not there
        source, lost = recorded_source(recipe, record, log=log, **options)
        if lost:
            known, tested = sum(image.part == TEST for image in record), source.test.size
            found = f"The images in {recipe.data} have changed since this run was trained; missing or changed"
            log(f"{found}: {some(lost)}. {tested} are tested, {known} were recorded.")
        if source.test.files and not record:
            log(f"{path} has no files.csv: its test images are drawn anew, and may have been trained on.")
        if not source.test.size:
            raise ValueError(f"None of the test images of {path} is left in {recipe.data}.")
    else:
        for_test = {"train_split": recipe.test_split, "test_fraction": None} if only_test else {}
        of_folder = {"label": given.get("label", "label")} if image_folder(recipe.data) else {}  # not the run's own
        splits: dict[str, Any] = recipe.data_splits() | for_test | of_folder
        source = load_source(recipe.data, recipe.data_dir, **splits, log=log, **options)
    return with_classes_of(source, class_names, log), recipe, is_own


def _are_own(record, own: Recipe, wanted: Recipe) -> bool:
    """Whether the wanted data are the run's own, or a folder elsewhere with most of its images; ValueError if gone."""
    images = image_folder(wanted.data)
    if wanted.test_split == own.test_split:
        return wanted.data == own.data or bool(images and images.holds(record))
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
        f"Data {source.name!r} has other classes than the model: {len(found)} ({some(found)}) and {len(known)} "
        f"({some(known)}). Pass data with the same classes. For a Mixer without names, set model.class_names = (...) "
        "and save it again; for a model with another head, name the class folders 0, 1, ..."
    )


@contextlib.contextmanager
def batches_of(model, *splits, crop):
    """Batches of the images of each split in the size of a model or predictor; errors name damaged files."""
    size = model.input_shape[-3:-1]
    with naming_damaged_files(*splits):
        yield [evaluation_batches(split, image_size=size, batch_size=BATCH_SIZE, crop=crop) for split in splits]


def _relabelled(split, table, classes):
    """Label i of the elements of a split becomes `table[i]`."""

    def renamed(element):
        return {**element, "label": tf.gather(table, element["label"])}

    at = split.at and (lambda positions: renamed(split.at(positions)))
    return dataclasses.replace(split, elements=split.elements.map(renamed), at=at, classes=classes, read_shard=None)

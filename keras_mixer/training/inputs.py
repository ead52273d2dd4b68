"""The data of a recipe or run, by the fields of the recipe."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from keras_mixer.data.image_folder import TRAIN
from keras_mixer.data.sources import image_folder, load_source
from keras_mixer.data.splits import Source, some, spread
from keras_mixer.data.user_data import own_source
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.run import FILES, Run, read_files, read_recipe

# Not used with own data.
RECIPE_DATA: dict[str, Any] = {"data_dir": None, "train_split": "train", "test_split": "test", "label": "label"}


def load_recipe_source(recipe: Recipe, **options) -> Source:
    """The data of a recipe; the options are `skip_corrupt` and `log` of an `ImageFolder`."""
    if recipe.train_split == recipe.test_split and not recipe.holdout:
        raise ValueError(f"{recipe.train_split!r} would be trained and tested on. Choose another --test-split.")
    source = load_source(recipe.data, recipe.data_dir, **recipe.data_splits(), **options)
    return hold_out(source, recipe.holdout)


def hold_out(source: Source, fraction) -> Source:
    """Replaces the test images by training images from all over, as the paper does to choose settings (section 3)."""
    if not fraction:
        return source
    held_out = held_out_places(source.train.size, fraction)
    if not held_out.any() or held_out.all():
        raise ValueError(f"holdout={fraction} of {source.train.size} images leaves nothing to train or to test on.")
    return dataclasses.replace(source, train=source.train.part(~held_out), test=source.train.part(held_out))


def held_out_places(size, fraction) -> np.ndarray:
    """`(size,) bool`: which examples `hold_out` takes; 0.0833333 counts as 1/12."""
    return spread(size, int(size * fraction + 0.05))


def describe_classes(source: Source, part="test") -> str:
    """The classes in a line, those of image files with the numbers of images; `part` is what testing is done on."""
    names = source.class_names
    if not source.train.files:
        return f"Classes: {some(names, 20)}"
    train, test = (np.bincount(split.labels(), minlength=len(names)) for split in (source.train, source.test))
    numbers = [f"{name} {train[i]:,} + {test[i]:,}" for i, name in enumerate(names)]
    return f"Images per class (training + {part}): {some(numbers, 20)}"


def recorded_source(recipe, record, **options) -> tuple[Source, list[str]]:
    """The data of a recipe; of recorded images those that are still there, in their parts, and the paths of others."""
    if not record:
        return load_recipe_source(recipe, **options), []
    folder = image_folder(recipe.data, **options)
    if folder is None:
        raise ValueError(f"There is no image folder {recipe.data}, on which this run was trained.")
    return folder.recorded(record)


def training_source(run: Run, skip_corrupt=False) -> Source:
    """The data that a run trains on: when it resumes, the images that it recorded, in the same sizes."""
    record = read_files(run.files) if run.resumes else []
    source, lost = recorded_source(run.recipe, record, skip_corrupt=skip_corrupt, log=run.log)
    if lost:
        found = f"The images in {run.recipe.data} have changed since this run started; missing or changed: {some(lost)}"
        raise ValueError(f"{found}. Restore them, or choose another --workdir.")
    return source


def log_known_images(run, recipe: Recipe, source: Source, log):
    """Says so if a run, whose weights or answers are used, learned test images of this one."""
    folder = Path(str(run).removesuffix("model.keras")).expanduser()
    try:
        own, record = read_recipe(folder), read_files(folder / FILES)
    except ValueError:  # not a run
        return
    if record and source.test.files:
        learned = {(image.bytes, image.crc32) for image in record if image.part == TRAIN}
        known = sum((image.bytes, image.crc32) in learned for image in source.test.files)
        said = f"learned {known:,} of the {source.test.size:,} {recipe.part()} images of this run"
    else:
        other_part = recipe.holdout > 0 and abs(own.holdout - recipe.holdout) > 1e-6  # less is rounding
        known = own.data == recipe.data and (other_part or own.data_splits() != recipe.data_splits())
        said = f"was trained on another part of {own.data}, which may include {recipe.part()} images of this run"
    if known:
        log(f"{run} {said}: the accuracy may be too high.")


def own_data(recipe: Recipe, overrides, train, test=None, log=print, **options) -> tuple[Recipe, Source | None]:
    """The recipe with the caller's data, which its `data` then describes, and the data; see `own_source`."""
    options["test"] = test
    if train is None:
        if given := [name for name, value in options.items() if value is not None]:
            raise ValueError(f"{', '.join(given)} can be used only with train=. Pass the training data too.")
        return recipe, None
    if given := [name for name in ("data", *RECIPE_DATA) if name in overrides]:
        raise ValueError(f"Expected train= or {given[0]}=, got both. Drop one of the two.")
    options |= {"test_fraction": recipe.test_fraction, "split_seed": recipe.split_seed, "log": log}
    options["needs_order"] = recipe.holdout > 0 or recipe.data_shards > 1
    source, described = own_source(train, **options)
    recipe = dataclasses.replace(recipe, data=described, **RECIPE_DATA)
    return recipe, hold_out(source, recipe.holdout)

"""The data of a recipe: its data set, training batches, validation batches."""

import dataclasses
from typing import Any

from keras_mixer.data.batches import evaluation_batches, padded_batches, training_batches
from keras_mixer.data.image_files import naming_damaged_files
from keras_mixer.data.image_folder import FILES, TEST, ImageFolder, counted, read_files
from keras_mixer.data.sources import image_folder, load_source
from keras_mixer.data.splits import Source, hold_out
from keras_mixer.data.user_data import own_source
from keras_mixer.evaluation.accuracy import Evaluation, evaluate
from keras_mixer.training.devices import Devices
from keras_mixer.training.recipe import Recipe

# Not used with own data.
RECIPE_DATA: dict[str, Any] = {"data_dir": None, "train_split": "train", "test_split": "test", "label": "label"}
EXAMPLES = 64
MOST_EVALUATED = 512  # images per batch on one device: a training batch may be meant for many


def load_recipe_source(recipe: Recipe, skip_corrupt=False, log=print) -> Source:
    """The data of a recipe; the other arguments are those of an `ImageFolder`.

    Raises:
        ValueError: as `load_source` and `hold_out`.
    """
    options = {"crop": recipe.evaluation_crop, "skip_corrupt": skip_corrupt, "log": log}
    source = load_source(recipe.data, recipe.data_dir, **recipe.data_splits(), **options)
    return hold_out(source, recipe.holdout) if recipe.holdout else source


def resumed_source(recipe: Recipe, record, skip_corrupt=False, log=print) -> Source:
    """The recorded images of a run that resumes.

    Raises:
        ValueError: images are gone, new, changed in size or damaged; says which.
    """
    source, changes = _recorded_folder(recipe, skip_corrupt, log).recorded(record)
    if changed := counted(changes):
        raise ValueError(
            f"The images in {recipe.data} have changed since this run started: {changed}. Restore them, or choose "
            "another --workdir."
        )
    return source


def run_source(folder, recipe: Recipe, *, include_new=False, skip_corrupt=False, log=print) -> Source:
    """The data of a run, with the images that were set aside for testing when it started; logs what has changed.

    Args:
        folder: of the run.
        recipe: of the run.
        include_new: test on images too that are new since then.
        skip_corrupt: leave out damaged images instead of raising.
        log: called with each line of text for the user.

    Raises:
        ValueError: as `load_recipe_source`, or no test image is left.
    """
    record = read_files(folder / FILES)
    if not record:
        return load_recipe_source(recipe, skip_corrupt, log)
    source, changes = _recorded_folder(recipe, skip_corrupt, log).recorded(record, include_new)
    if changed := counted(changes):
        known, new = sum(image.part == TEST for image in record), len(changes["new"])
        log(
            f"The images in {recipe.data} have changed since this run was trained: {changed}. {source.test.size} are "
            f"tested, {known} were recorded{'; new ones only with evaluate --include-new' if new else ''}."
        )
    if not source.test.size:
        raise ValueError(f"None of the test images of {folder} is left in {recipe.data}.")
    return source


def other_source(folder, own: Recipe, wanted: Recipe, skip_corrupt=False, log=print) -> Source | None:
    """Data that a run does not know, for testing only; None if the wanted data are the run's own.

    They are its own at another place too: a folder with most of the recorded images, by name and size.

    Raises:
        ValueError: as `load_source`, or there is no folder with the name of the split.
    """
    options = {"crop": wanted.evaluation_crop, "skip_corrupt": skip_corrupt, "log": log}
    images = image_folder(wanted.data, wanted.train_split, wanted.test_split, **options)
    if wanted.test_split == own.test_split:
        record = read_files(folder / FILES)
        if wanted.data == own.data or (images and record and images.holds(record)):
            return None
    elif images and not (images.path / wanted.test_split).is_dir():
        raise ValueError(f"There is no folder {images.path / wanted.test_split}.")
    splits = (wanted.test_split, wanted.test_split, None)
    return load_source(wanted.data, wanted.data_dir, *splits, label=wanted.label, **options)


def _recorded_folder(recipe, skip_corrupt, log) -> ImageFolder:
    options = {"crop": recipe.evaluation_crop, "skip_corrupt": skip_corrupt, "log": log}
    folder = image_folder(recipe.data, recipe.train_split, recipe.test_split, **options)
    if folder is None:
        raise ValueError(f"There is no image folder {recipe.data}, on which this run was trained.")
    return folder


def with_own_data(
    recipe: Recipe, overrides, train, test=None, class_names=None, classes=None, log=print
) -> tuple[Recipe, Source]:
    """The recipe with the caller's data, which its `data` then describes, and the data; see `own_source`.

    Raises:
        ValueError: as `own_source` and `hold_out`, or `overrides` name other data.
    """
    given = [name for name in ("data", *RECIPE_DATA) if name in overrides]
    if given:
        raise ValueError(f"Expected train= or {given[0]}=, got both. Drop one of the two.")
    source, described = own_source(
        train,
        test,
        class_names=class_names,
        classes=classes,
        test_fraction=recipe.test_fraction,
        split_seed=recipe.split_seed,
        needs_order=recipe.holdout > 0 or recipe.data_shards > 1,
        log=log,
    )
    recipe = dataclasses.replace(recipe, data=described, **RECIPE_DATA)
    return recipe, hold_out(source, recipe.holdout) if recipe.holdout else source


def recipe_for(recipe: Recipe, source: Source, log) -> Recipe:
    """The recipe for the data, which `fit_small_data` changes; logs how.

    Raises:
        ValueError: the training images do not fill one batch.
    """
    adapted, images = recipe.for_images(source.train.size), source.train.size
    if adapted != recipe:
        log(
            f"{images} training images are few for this recipe: global_batch_size {adapted.global_batch_size} instead "
            f"of {recipe.global_batch_size}, warmup_steps {adapted.warmup_steps} instead of {recipe.warmup_steps}."
        )
    if not adapted.epoch_steps(images):
        raise ValueError(
            f"global_batch_size={adapted.global_batch_size} is more than the {images} training images of "
            f"{source.name!r}; lower --global-batch-size."
        )
    return adapted


def example_images(source: Source, recipe: Recipe):
    """`(B, h, w, 3) float32`: augmented training images to show, without filling a large shuffle buffer."""
    few = dataclasses.replace(
        recipe,
        global_batch_size=min(EXAMPLES, source.train.size),
        shuffle_buffer=16 * EXAMPLES,
        accumulation_steps=1,
        data_shards=1,
    )
    return next(iter(training_batches(source.train, few)))[0]


def validation_batches(source: Source, recipe: Recipe, devices: Devices):
    """The test images for Keras's `fit`, in batches that the devices share evenly; see `padded_batches`."""
    size = min(recipe.global_batch_size, -(-source.test.size // devices.count) * devices.count)
    return padded_batches(
        source.test,
        image_size=recipe.input_shape()[:2],
        batch_size=size,
        crop=recipe.evaluation_crop,
        process=devices.process,
        processes=devices.processes,
    )


def evaluate_source(model, source: Source, recipe: Recipe, **options) -> Evaluation:
    """Accuracy on the test images of a source, preprocessed as the recipe says."""
    batches = evaluation_batches(
        source.test,
        image_size=recipe.input_shape()[:2],
        batch_size=min(recipe.global_batch_size, source.test.size, MOST_EVALUATED),
        crop=recipe.evaluation_crop,
    )
    with naming_damaged_files(source.test, crop=recipe.evaluation_crop):
        return evaluate(model, batches, **options)

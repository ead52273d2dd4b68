"""The data that a finished run is looked at on: its own, as it recorded them, or others."""

from keras_mixer.data.image_folder import FILES, TEST, read_files
from keras_mixer.data.sources import image_folder, load_source
from keras_mixer.data.splits import Source
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


def other_source(wanted: Recipe, **options) -> Source:
    """Data that a run does not know, for testing only."""
    splits = wanted.test_split, wanted.test_split, None, wanted.split_seed, wanted.label
    return load_source(wanted.data, wanted.data_dir, *splits, **options)

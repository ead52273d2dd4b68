"""Finds images that cannot be used, and says why: headers of files by Pillow, pixels as training and evaluation do."""

import contextlib
import os
import re
import sys

import tensorflow as tf
from PIL import Image
from tqdm.auto import tqdm

from keras_mixer.data.decode import NO_PIXELS, NotAnImage, content_sum, image_of, read_orientation
from keras_mixer.data.splits import CORES, as_written, some

MANY_FILES = 10_000  # above this, a progress bar is shown
MOST_NAMED = 20  # images in a message
ADVICE = "Fix or remove such files, or leave them out with --skip-corrupt."


def check_file(path) -> tuple[int, int]:
    """The orientation and the `content_sum` of an image file.

    NotAnImage says what it is if it is not called an image either; a ValueError names an image that cannot be used.
    """
    try:
        with open(path, "rb") as file:  # a third faster than Pillow's way to open a path
            return read_orientation(file), content_sum(file)
    except Exception as error:  # Pillow has many types
        named = Image.registered_extensions().get(os.path.splitext(path)[1].lower())
        if isinstance(error, NotAnImage) and (named not in Image.OPEN or named in NO_PIXELS):
            raise
        raise ValueError(f"{path}: {reason_of(error)}") from error


@as_written
def unusable_examples(split) -> dict[int, str]:
    """Why examples of a split cannot be used, by their positions; decodes all images."""
    corners = iter(split.elements.map(lambda element: image_of(split.read(element))[0, 0, 0], CORES))
    reasons = {}
    for i in progress(range(split.size)):
        try:
            next(corners, None)
        except tf.errors.OpError as error:  # in the place of the element; the next ones follow
            file = split.files[i].path if split.files else None
            place = f"{split.name}/{file}" if file else f"image {i} of {split.name}, counted from 0"
            reasons[i] = f"{place}: {reason_of(error)}"
    return reasons


@contextlib.contextmanager
def naming_damaged_files(*splits):
    """Raises `damaged_files` if the block fails because an image of the splits cannot be decoded."""
    try:
        yield
    except tf.errors.ResourceExhaustedError:
        raise
    except tf.errors.OpError as error:
        if reasons := [reason for split in splits for reason in unusable_examples(split).values()]:
            raise damaged_files(reasons, ADVICE if splits[0].files else "") from error
        raise


def damaged_files(reasons, advice=ADVICE) -> ValueError:
    """An error that names up to `MOST_NAMED` damaged files."""
    if len(reasons) == 1:
        return ValueError(f"An image cannot be used: {reasons[0]}. {advice}".strip())
    named = some(reasons, MOST_NAMED, "\n  ")
    return ValueError(f"{len(reasons):,} images cannot be used:\n  {named}\n{advice}".strip())


def progress(items):
    """The items, with a progress bar if there are many."""
    return tqdm(items, "checking images", leave=False, file=sys.stderr, disable=len(items) <= MANY_FILES)


def reason_of(error) -> str:
    """The first line of an error, without what TensorFlow says about the place in a graph."""
    first, *_ = str(error).splitlines() or [repr(error)]
    return re.sub(r"{{.*?}} ?|Error in .* Iterator::\S+: | \[Op:.*", "", first).rstrip(".")

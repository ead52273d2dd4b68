"""Finds images that cannot be used, and says why: headers of files by Pillow, pixels as training and evaluation do."""

import contextlib
import os
import re
import sys

import tensorflow as tf
from PIL import Image
from tqdm.auto import tqdm

from keras_mixer.data.decode import NO_PIXELS, NotAnImage, as_file, content_sum, image_of, read_orientation
from keras_mixer.data.splits import PARALLEL_CALLS, as_written, some

MANY_FILES = 10_000  # above this, a progress bar is shown
MOST_NAMED = 20  # images in a message
ADVICE = "Fix or remove such files, or leave them out with --skip-corrupt."


def check_files(paths) -> list[tuple[int, int] | ValueError]:
    """The orientation and the `content_sum` of each image file, or why it cannot be used.

    That is a ValueError with its name and the reason, NotAnImage if its name is not an image's either.
    """
    found: list[tuple[int, int] | ValueError] = []
    for path in _progress(paths, len(paths)):  # not in threads: Pillow reads headers in Python, one at a time
        try:
            with open(path, "rb") as file:  # a third faster than Pillow's way to open a path
                found.append((read_orientation(file), content_sum(file)))
        except Exception as error:  # Pillow has many types
            named = Image.registered_extensions().get(os.path.splitext(path)[1].lower())
            unknown = isinstance(error, NotAnImage) and (named not in Image.OPEN or named in NO_PIXELS)
            reason = getattr(error, "strerror", None) or str(error).rstrip(".")
            found.append((NotAnImage if unknown else ValueError)(f"{_shown(path)}: {reason}"))
    return found


def read_image(path, prepare):
    """What `prepare` makes of the example of an image file; FileNotFoundError, or a ValueError that names the file."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no image file {path}.")
    encoded = None
    try:
        with open(path, "rb") as file:  # before all of a large file is read
            orientation = read_orientation(file)
        encoded = tf.io.read_file(os.fsencode(path))
        return prepare({"image": encoded, "orientation": orientation})
    except Exception as error:  # TensorFlow and Pillow have many types
        raise ValueError(f"{_shown(path)}: {_reason(encoded, error)}") from error


@as_written
def unusable_examples(split) -> dict[int, ValueError]:
    """Why examples of a split cannot be used, by their positions; decodes all images."""
    numbered = split.elements.enumerate()
    corners = numbered.map(lambda i, element: (i, image_of(split.read(element))[0, 0, 0]), PARALLEL_CALLS)
    usable = {int(i) for i, _ in _progress(corners.ignore_errors().as_numpy_iterator(), split.size)}
    reasons = {}
    for i, element in enumerate(split.elements) if len(usable) < split.size else ():
        if i in usable and split.at is not None:  # a stream may have another order now
            continue
        place, example = element["path"].numpy() if split.files else f"image {i} of {split.name}, counted from 0", {}
        label = int(element.get("label", 0)) if split.classes else 0  # else there may be many labels
        try:
            if label and not 0 <= label < split.classes:
                raise ValueError(f"its label is {label}, expected 0 to {split.classes - 1}")
            example = split.read(element)
            image_of(example)
        except Exception as error:  # TensorFlow, Pillow and the user's own code have many types
            reasons[i] = ValueError(f"{_shown(place)}: {_reason(example.get('image'), error)}")
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
    named = some(list(map(str, reasons)), MOST_NAMED, "\n  ")
    return ValueError(f"{len(reasons):,} images cannot be used:\n  {named}\n{advice}".strip())


def _reason(image, error) -> str:
    """Why an image cannot be used: in the words of Pillow, which are clearer, if it refuses it too."""
    if image is not None and image.dtype == tf.string:
        try:
            read_orientation(as_file(image))
            with Image.open(as_file(image)) as opened:
                opened.load()
        except Exception as of_pillow:
            error = of_pillow
    told = getattr(error, "strerror", None) or str(error) or repr(error)
    return re.sub("{{.*?}} ?", "", told).splitlines()[0].rstrip(".")


def _shown(path) -> str:
    return os.fsencode(path).decode(errors="replace")


def _progress(items, total):
    return tqdm(items, "checking images", total, leave=False, file=sys.stderr, disable=total <= MANY_FILES)

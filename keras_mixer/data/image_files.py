"""Finds image files that cannot be used, and says why."""

import contextlib
import os
import re
import sys
import zlib
from collections.abc import Iterator
from multiprocessing.pool import ThreadPool

import tensorflow as tf
from PIL import Image
from tqdm.auto import tqdm

from keras_mixer.data.decode import Header, NotAnImage, as_file, decode_image, image_of, read_header
from keras_mixer.data.splits import PARALLEL_CALLS

MANY_FILES = 10_000  # above this, a progress bar is shown
SMALL_FILE = 8192  # bytes; its header is read with the whole file
MOST_NAMED = 20  # files in a message
ADVICE = "Fix or remove such files, or leave them out with --skip-corrupt."


def check_file(path, crop=None, pixels=False) -> Header:
    """`read_header` of a file, whose pixels decode too if asked; ValueError with its name and the reason otherwise."""
    shown = os.fsencode(path).decode(errors="replace")
    try:
        with open(path, "rb") as file:  # a third faster than Pillow's way to open a path
            header = read_header(file, crop)
            if os.fstat(file.fileno()).st_size <= SMALL_FILE:
                file.seek(0)
                header = header._replace(crc32=zlib.crc32(file.read()))
        if pixels:
            decode_image(tf.io.read_file(os.fsencode(path)), header.orientation)
        return header
    except NotAnImage as error:
        raise NotAnImage(f"{shown}: {error if os.path.getsize(path) else 'empty'}") from error
    except Exception as error:  # Pillow has many types
        reason = _reason_of_pillow(path) if isinstance(error, tf.errors.OpError) else error
        raise ValueError(f"{shown}: {getattr(reason, 'strerror', None) or str(reason).rstrip('.')}") from error


def _reason_of_pillow(file):
    """Why the pixels of a path or file cannot be decoded, in the words of Pillow, which are clearer."""
    try:
        with Image.open(file) as image:
            image.load()
    except Exception as error:
        return error
    return "TensorFlow cannot decode it"


def read_image(path, prepare, crop=None):
    """What `prepare` makes of the example of an image file; FileNotFoundError or the ValueError of `check_file`."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no image file {path}.")
    orientation = check_file(path, crop).orientation
    try:
        return prepare({"image": tf.io.read_file(os.fsencode(path)), "orientation": orientation})
    except Exception:
        check_file(path, crop, pixels=True)  # raises an error that names the file
        raise


def check_files(paths, crop=None, pixels=False) -> list[Header | ValueError]:
    """`check_file` of many files: what it returns or raises for each."""

    def check(path):
        try:
            return check_file(path, crop, pixels)
        except ValueError as error:
            return error

    with ThreadPool(PARALLEL_CALLS) as pool:  # Pillow reads headers in Python, where threads only disturb each other
        checked = pool.imap(check, paths, chunksize=64) if pixels else map(check, paths)
        few = len(paths) <= MANY_FILES
        return list(tqdm(checked, "checking images", len(paths), leave=False, file=sys.stderr, disable=few))


@contextlib.contextmanager
def naming_damaged_files(*splits, crop=None, advice=ADVICE):
    """Raises `damaged_files` if the block fails because an image file of the splits cannot be decoded."""
    try:
        yield
    except tf.errors.OpError as error:
        checked = check_files([path for split in splits for path in split.files], crop, pixels=True)
        reasons = [reason for reason in checked if isinstance(reason, ValueError)]
        reasons += [reason for split in splits if not split.files for reason in _unusable_examples(split)]
        if reasons:
            raise damaged_files(reasons, advice if splits[0].files else "") from error
        raise


def _unusable_examples(split) -> Iterator[ValueError]:
    """Why examples that are no files cannot be used, with their numbers."""
    for i, element in enumerate(split.elements):
        where, label = f"image {i} of {split.name}, counted from 0", element.get("label")
        if label is not None and split.classes and not 0 <= int(label) < split.classes:
            yield ValueError(f"{where}: its label is {int(label)}, expected 0 to {split.classes - 1}")
            continue
        example = {}
        try:
            example = split.read(element)
            image_of(example)
        except Exception as error:
            encoded = example.get("image")
            reason = error if encoded is None else _reason_of_pillow(as_file(encoded))
            yield ValueError(f"{where}: {re.sub('{{.*?}} ?', '', str(reason).splitlines()[0])}")


def damaged_files(reasons, advice=ADVICE) -> ValueError:
    """An error that names up to `MOST_NAMED` damaged files."""
    if len(reasons) == 1:
        return ValueError(f"An image cannot be used: {reasons[0]}. {advice}".strip())
    more = [f"and {len(reasons) - MOST_NAMED:,} more"] if len(reasons) > MOST_NAMED else []
    named = "\n  ".join([*map(str, reasons[:MOST_NAMED]), *more])
    return ValueError(f"{len(reasons):,} images cannot be used:\n  {named}\n{advice}".strip())

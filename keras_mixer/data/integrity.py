"""Finds image files that cannot be decoded before a training run stumbles over them."""

import dataclasses
import sys
from pathlib import Path

import tensorflow as tf
from tqdm.auto import tqdm

from keras_mixer.data.parallel import PARALLEL_CALLS, read_ahead
from keras_mixer.data.preprocessing import check_image, why_unreadable
from keras_mixer.data.sources import Source, Split, file_split


def corrupt_files(split, crop=None) -> dict[Path, str]:
    """Decodes every file of a split and returns those that fail, in order, each with a sentence that says why.

    Files of which the evaluation crop cannot be taken count too.

    Source: ours. Costs about one epoch of decoding; a broken file otherwise stops a run in its middle.
    """

    def problem(element):  # a py_function: inside a graph a failing op cannot be caught
        def attempt(path):
            try:
                check_image(tf.io.read_file(path), crop)
            except tf.errors.OpError as error:
                return why_unreadable(path.numpy().decode(), error)
            return ""

        return tf.py_function(attempt, [element["path"]], tf.string)

    results = read_ahead(split.elements.map(problem, num_parallel_calls=PARALLEL_CALLS), elements=64)
    progress = tqdm(results, total=split.size, desc="checking images", unit="image", leave=False, file=sys.stderr)
    found = zip(split.files, progress, strict=True)
    return {path: said.numpy().decode() for path, said in found if said != b""}


def check_source(source: Source, skip_corrupt=False, crop=None) -> tuple[Source, int]:
    """Makes sure that every image file of a source decodes.

    Args:
        source: where the images come from; only files are checked, prepared TensorFlow Datasets are trusted.
        skip_corrupt: leave broken files out instead of raising.
        crop: the evaluation crop that the images must allow.

    Returns:
        The source without broken files, and how many were left out.

    Raises:
        ValueError: files are broken; names each (the first 20 of many).

    Source: ours.
    """
    broken: dict[Path, str] = {}
    for split in (source.train, source.test):
        if split.files:
            broken |= corrupt_files(split, crop)
    if not broken:
        return source, 0
    if not skip_corrupt:
        named = "\n  ".join(broken[path] for path in sorted(broken)[:20])
        more = f"\n  and {len(broken) - 20} more" if len(broken) > 20 else ""
        raise ValueError(
            f"{len(broken)} image file(s) cannot be decoded (truncated, damaged, too large, or no image):\n  "
            f"{named}{more}\nMend or remove them, or leave them out with --skip-corrupt."
        )
    train, test = (_without(split, broken) for split in (source.train, source.test))
    for name, split in {"training": train, "test": test}.items():
        if not split.size:
            raise ValueError(f"No {name} image of {source.name!r} can be decoded.")
    return dataclasses.replace(source, train=train, test=test), len(broken)


def _without(split: Split, broken) -> Split:
    kept = [(path, label) for path, label in zip(split.files, split.labels(), strict=True) if path not in broken]
    return file_split([path for path, _ in kept], [label for _, label in kept])

"""Finds image files that cannot be decoded before a training run stumbles over them."""

import dataclasses
import sys

import tensorflow as tf
from tqdm.auto import tqdm

from keras_mixer.data.preprocessing import decode_image
from keras_mixer.data.sources import Source, Split, file_split


def corrupt_files(split):
    """Decodes every file of a split and returns the paths of those that fail, in order.

    Source: ours. Costs about one epoch of decoding; a broken file otherwise stops a run in its middle.
    """

    def decodes(element):  # a py_function: inside a graph a failing op cannot be caught
        def attempt(path):
            try:
                decode_image(tf.io.read_file(path))
            except (tf.errors.InvalidArgumentError, tf.errors.OpError):
                return False
            return True

        return tf.py_function(attempt, [element["path"]], tf.bool)

    results = split.elements.map(decodes, num_parallel_calls=tf.data.AUTOTUNE).prefetch(64)
    progress = tqdm(results, total=split.size, desc="checking images", unit="image", leave=False, file=sys.stderr)
    return [path for path, good in zip(split.files, progress, strict=True) if not good]


def check_source(source: Source, skip_corrupt=False) -> tuple[Source, int]:
    """Makes sure that every image file of a source decodes.

    Args:
        source: where the images come from; only files are checked, prepared TensorFlow Datasets are trusted.
        skip_corrupt: leave broken files out instead of raising.

    Returns:
        The source without broken files, and how many were left out.

    Raises:
        ValueError: files are broken; names each (the first 20 of many).

    Source: ours.
    """
    broken = {path for split in (source.train, source.test) if split.files for path in corrupt_files(split)}
    if not broken:
        return source, 0
    if not skip_corrupt:
        named = "\n  ".join(str(path) for path in sorted(broken)[:20])
        more = f"\n  and {len(broken) - 20} more" if len(broken) > 20 else ""
        raise ValueError(
            f"{len(broken)} image file(s) cannot be decoded (truncated, damaged, or no image):\n  {named}{more}\n"
            "Mend or remove them, or leave them out with --skip-corrupt."
        )
    train, test = (_without(split, broken) for split in (source.train, source.test))
    for name, split in {"training": train, "test": test}.items():
        if not split.size:
            raise ValueError(f"No {name} image of {source.name!r} can be decoded.")
    return dataclasses.replace(source, train=train, test=test), len(broken)


def _without(split: Split, broken) -> Split:
    kept = [(path, label) for path, label in zip(split.files, split.labels(), strict=True) if path not in broken]
    return file_split([path for path, _ in kept], [label for _, label in kept])

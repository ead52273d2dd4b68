"""Finds image files that cannot be decoded, before training starts."""

import dataclasses
import hashlib
import json
import os
import sys
from pathlib import Path

import tensorflow as tf
from tqdm.auto import tqdm

from keras_mixer.data.parallel import PARALLEL_CALLS, prefetch
from keras_mixer.data.preprocessing import check_image, why_unreadable
from keras_mixer.data.splits import Source, Split, file_split
from keras_mixer.files import write_json


def corrupt_files(split, crop=None) -> dict[Path, str]:
    """Decodes every file of a split and returns those that fail, in order, each with the reason.

    Files that the evaluation crop rejects are included.

    Source: ours. Costs about one epoch of decoding; otherwise a damaged file would stop a run halfway.
    """

    def problem(element):  # a py_function, because a failing op cannot be caught inside a graph
        def attempt(path):
            try:
                check_image(tf.io.read_file(path), crop)
            except tf.errors.OpError as error:
                return why_unreadable(path.numpy().decode(), error)
            return ""

        return tf.py_function(attempt, [element["path"]], tf.string)

    results = prefetch(split.elements.map(problem, num_parallel_calls=PARALLEL_CALLS), elements=64)
    progress = tqdm(results, total=split.size, desc="checking images", unit="image", leave=False, file=sys.stderr)
    found = zip(split.files, progress, strict=True)
    return {path: reason.numpy().decode() for path, reason in found if reason != b""}


def check_source(
    source: Source, skip_corrupt=False, crop=None, memory=None, remember=True, log=print
) -> tuple[Source, int]:
    """Checks that every image file of a source can be decoded.

    Args:
        source: the images; only image files are checked, prepared TensorFlow Datasets are not.
        skip_corrupt: leave out damaged files instead of raising.
        crop: an evaluation crop that must accept the images.
        memory: JSON file for the result. Nothing is decoded as long as paths, sizes and modification times of all files
            stay the same. None checks every time.
        remember: write a new result to `memory`; False only reads it.
        log: called with a line of text if files have changed since the last check.

    Returns:
        The source without damaged files, and the number of files left out.

    Raises:
        ValueError: files are damaged; the message names up to 20 of them.

    Source: ours.
    """
    broken = _broken_files(source, crop, memory, remember, log)
    if not broken:
        return source, 0
    if not skip_corrupt:
        named = "\n  ".join(broken[path] for path in sorted(broken)[:20])
        more = f"\n  and {len(broken) - 20} more" if len(broken) > 20 else ""
        raise ValueError(
            f"{len(broken)} image file(s) cannot be decoded (truncated, damaged, too large, or not images):\n  "
            f"{named}{more}\nFix or remove them, or leave them out with --skip-corrupt."
        )
    train, test = (_without(split, broken) for split in (source.train, source.test))
    for name, split in {"training": train, "test": test}.items():
        if not split.size:
            raise ValueError(f"No {name} image of {source.name!r} can be decoded.")
    return dataclasses.replace(source, train=train, test=test), len(broken)


def _broken_files(source, crop, memory, remember, log) -> dict[Path, str]:
    splits = [split for split in (source.train, source.test) if split.files]
    if not splits:
        return {}
    wanted = _fingerprint([path for split in splits for path in split.files], crop)
    known = _read(memory)
    if known.get("fingerprint") == wanted:
        return {Path(path): why for path, why in known["broken"].items()}
    if known:
        log(f"Images of {source.name} have changed since they were checked; checking them again.")
    broken = {path: why for split in splits for path, why in corrupt_files(split, crop).items()}
    if memory is not None and remember:
        write_json(memory, {"fingerprint": wanted, "broken": {str(path): why for path, why in broken.items()}})
    return broken


def _fingerprint(files, crop):
    """SHA-256 of path, size and modification time of every file, the crop, and the TensorFlow version."""
    digest = hashlib.sha256(f"{crop} {tf.__version__}".encode())
    for path in files:
        status = os.stat(path)
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _read(memory):
    """The content of a memory file; empty if it is missing or damaged."""
    try:
        content = json.loads(Path(memory).read_text(encoding="utf-8")) if memory is not None else {}
        return content if isinstance(content["broken"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _without(split: Split, broken) -> Split:
    kept = [(path, label) for path, label in zip(split.files, split.labels(), strict=True) if path not in broken]
    return file_split([path for path, _ in kept], [label for _, label in kept])

"""Finds image files that cannot be decoded, before training starts."""

import contextlib
import dataclasses
import hashlib
import json
import os
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from tqdm.auto import tqdm

from keras_mixer.data.parallel import PARALLEL_CALLS, as_written, prefetch
from keras_mixer.data.preprocessing import check_image, why_unreadable
from keras_mixer.data.splits import Source, Split, file_split
from keras_mixer.downloads import cache_path
from keras_mixer.files import write_json

MOST_DECODED = 2**30  # bytes of image files that are decoded before training: 10,000 photographs, 15 to 30 s on 2 cores
PROGRESS_STEP = 256  # images


def corrupt_files(split, crop=None) -> dict[str, str]:
    """Decodes every file of a split and returns those that fail, in order, each with the reason.

    Files that the evaluation crop rejects are included.

    Source: ours. Costs about one epoch of decoding: 70,000 images of 28 px take 13 s on 2 shared cores.
    """

    @as_written
    def good(position, element):
        return position, check_image(tf.io.read_file(element["path"]), crop)  # without the size, nothing is decoded

    checked = split.elements.enumerate().map(good, num_parallel_calls=PARALLEL_CALLS).ignore_errors()
    failed = np.ones(split.size, bool)
    with tqdm(total=split.size, desc="checking images", unit="image", leave=False, file=sys.stderr) as progress:
        for positions, _ in prefetch(checked.batch(PROGRESS_STEP)).as_numpy_iterator():
            failed[positions] = False
            progress.update(len(positions))
    return {split.files[i]: reason for i in np.flatnonzero(failed) if (reason := _why_corrupt(split.files[i], crop))}


def _why_corrupt(path, crop):
    """The reason why an image cannot be decoded; empty if it can."""
    try:
        check_image(tf.io.read_file(path), crop)
    except tf.errors.OpError as error:
        return why_unreadable(path, error)
    return ""


def check_source(
    source: Source, skip_corrupt=False, crop=None, memory=None, remember=True, log=print
) -> tuple[Source, int]:
    """Checks that every image file of a source can be decoded.

    More than `MOST_DECODED` bytes of files are decoded only with `skip_corrupt`; `naming_corrupt_files` names a damaged
    one when training reaches it.

    Args:
        source: the images; only image files are checked, prepared TensorFlow Datasets are not.
        skip_corrupt: leave out damaged files instead of raising.
        crop: an evaluation crop that must accept the images.
        memory: JSON file for the result, next to one in Keras's cache. Nothing is decoded again as long as paths, sizes
            and modification times of all files stay the same.
        remember: write a new result; False only reads.
        log: called with a line of text if files have changed since the last check, or are not checked.

    Returns:
        The source without damaged files, and the number of files left out.

    Raises:
        ValueError: files are damaged; the message names up to 20 of them.

    Source: ours.
    """
    broken = _broken_files(source, skip_corrupt, crop, memory, remember, log)
    if not broken:
        return source, 0
    if not skip_corrupt:
        raise ValueError(_named(broken))
    train, test = (_without(split, broken) for split in (source.train, source.test))
    for name, split in {"training": train, "test": test}.items():
        if not split.size:
            raise ValueError(f"No {name} image of {source.name!r} can be decoded.")
    return dataclasses.replace(source, train=train, test=test), len(broken)


@contextlib.contextmanager
def naming_corrupt_files(source: Source, crop):
    """Names the damaged image files if the block fails because one cannot be decoded.

    Raises:
        ValueError: files are damaged; the message names up to 20 of them.
    """
    try:
        yield
    except tf.errors.OpError as error:
        broken = _corrupt_in(_file_splits(source), crop)
        if not broken:
            raise
        raise ValueError(_named(broken)) from error


def _named(broken):
    named = "\n  ".join(broken[path] for path in sorted(broken)[:20])
    more = f"\n  and {len(broken) - 20} more" if len(broken) > 20 else ""
    return (
        f"{len(broken)} image file(s) cannot be decoded (truncated, damaged, too large, or not images):\n  "
        f"{named}{more}\nFix or remove them, or leave them out with --skip-corrupt."
    )


def _file_splits(source):
    return [split for split in (source.train, source.test) if split.files]


def _corrupt_in(splits, crop) -> dict[str, str]:
    return {path: why for split in splits for path, why in corrupt_files(split, crop).items()}


def _broken_files(source, skip_corrupt, crop, memory, remember, log) -> dict[str, str]:
    splits = _file_splits(source)
    if not splits:
        return {}
    wanted, size = _fingerprint([path for split in splits for path in split.files], crop)
    folder = hashlib.sha256(str(Path(splits[0].files[0]).resolve().parent).encode()).hexdigest()[:16]
    memories = [path for path in (memory, cache_path(f"checked_images/{folder}.json")) if path is not None]
    known = [_read(path) for path in memories]
    content = next((content for content in known if content.get("fingerprint") == wanted), None)
    if content is None:
        if size > MOST_DECODED and not skip_corrupt:
            log(
                f"{size / 2**30:.1f} GiB of image files are not decoded in advance: a damaged one is named when "
                "training reaches it. --skip-corrupt checks all of them now."
            )
            return {}
        if known[0]:
            log(f"Images of {source.name} have changed since they were checked; checking them again.")
        content = {"fingerprint": wanted, "broken": _corrupt_in(splits, crop)}
    for path, found in zip(memories, known, strict=True):
        if remember and found != content:
            with contextlib.nullcontext() if path is memory else contextlib.suppress(OSError):
                write_json(path, content)
    return dict(content["broken"])


def _fingerprint(files, crop):
    """SHA-256 of path, size and modification time of every file, crop and TensorFlow version; bytes of all files."""
    digest, total = hashlib.sha256(f"{crop} {tf.__version__}".encode()), 0
    for path in files:
        status = os.stat(path)
        digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
        total += status.st_size
    return digest.hexdigest(), total


def _read(memory):
    """The content of a memory file; empty if it is missing or damaged."""
    try:
        content = json.loads(Path(memory).read_text(encoding="utf-8"))
        return content if isinstance(content["broken"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _without(split: Split, broken) -> Split:
    kept = [(path, label) for path, label in zip(split.files, split.labels(), strict=True) if path not in broken]
    return file_split([path for path, _ in kept], [label for _, label in kept])

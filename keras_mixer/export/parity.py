"""Proof that an export is its model: run by its own runtime, compared on a data set, and only then put in its place."""

import dataclasses
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mixer.cores import available_cores
from keras_mixer.data.sources import Split
from keras_mixer.export.classifier import Classifier
from keras_mixer.export.runtimes import open_export
from keras_mixer.files import refuse_existing, write_json


@dataclasses.dataclass(frozen=True)
class Threshold:
    """What an export must reach; None asks for nothing.

    Attributes:
        max_difference: largest allowed difference of a probability, in [0, 1].
        min_agreement: smallest allowed share of images with the same most probable class, in [0, 1].
    """

    max_difference: float | None = None
    min_agreement: float | None = None

    def __post_init__(self):
        for field, value in dataclasses.asdict(self).items():
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{field} must lie in [0, 1], not {value!r}.")


THRESHOLDS = {
    None: Threshold(max_difference=1e-5),
    "float16": Threshold(max_difference=1e-3),
    "dynamic_int8": Threshold(min_agreement=0.99),
    "int8": Threshold(min_agreement=0.99),
}


@dataclasses.dataclass(frozen=True)
class Parity:
    """How an export compares with its model on the same images, one call of each in turn.

    Attributes:
        runtime: the software that ran the export.
        backend: the Keras backend that ran the model.
        images: how many were compared.
        max_difference: largest difference of a probability.
        mean_difference: mean difference of a probability.
        agreement: share of images with the same most probable class.
        model_accuracy: share of images that the model gets right.
        export_accuracy: share of images that the export gets right.
        bytes: size of the export.
        model_images_per_second: calls only, without reading and cropping.
        export_images_per_second: likewise.
        batch_size: images in a call.
        threads: of the export's runtime; the model takes what its backend takes, by default all cores.
        threshold: what was asked for.
    """

    runtime: str
    backend: str
    images: int
    max_difference: float
    mean_difference: float
    agreement: float
    model_accuracy: float
    export_accuracy: float
    bytes: int
    model_images_per_second: float
    export_images_per_second: float
    batch_size: int
    threads: int
    threshold: Threshold

    @property
    def passed(self) -> bool:
        """Whether the threshold is reached; a difference that is no number never reaches it."""
        allowed, needed = self.threshold.max_difference, self.threshold.min_agreement
        close = np.isfinite(self.max_difference) and (allowed is None or self.max_difference <= allowed)
        return bool(close and (needed is None or self.agreement >= needed))

    def as_json(self) -> dict[str, Any]:
        """Everything as plain data, `passed` included."""
        return dataclasses.asdict(self) | {"passed": self.passed}


def compare(model, path, batches, threshold, threads=None) -> Parity:
    """Runs an export and its model on the same images.

    Args:
        model: what was exported; in mixed precision its float32 rebuild is the reference.
        path: the export, as `open_export` takes it.
        batches: `(images (B, H, W, channels) in [0, 255], labels (B,))`, all but the last of one size.
        threshold: what counts as equal.
        threads: of the export's runtime; None for all cores.

    Raises:
        ValueError: there is no image, or the path is no export of this package.

    Source: ours. Both sides are called once beforehand, so that no compilation is timed.
    """
    reference = Classifier.of(model).model
    runtime = open_export(path, threads)
    expected: list[np.ndarray] = []
    found: list[np.ndarray] = []
    truth: list[np.ndarray] = []
    seconds = np.zeros(2)
    for images, labels in batches:
        pixels = np.asarray(images, np.float32)
        if not expected or len(pixels) != len(expected[-1]):
            reference.predict_on_batch(pixels)
            runtime.classify(pixels)
        start = time.perf_counter()
        expected.append(np.asarray(reference.predict_on_batch(pixels)))
        middle = time.perf_counter()
        found.append(np.asarray(runtime.classify(pixels)))
        seconds += middle - start, time.perf_counter() - middle
        truth.append(np.asarray(labels))
    if not expected:
        raise ValueError("There is no image to compare on.")
    ours, theirs, labels = np.concatenate(expected), np.concatenate(found), np.concatenate(truth)
    differences = np.abs(theirs.astype(np.float64) - ours)
    return Parity(
        runtime=runtime.name,
        backend=keras.backend.backend(),
        images=len(labels),
        max_difference=float(differences.max()),
        mean_difference=float(differences.mean()),
        agreement=float((ours.argmax(1) == theirs.argmax(1)).mean()),
        model_accuracy=float((ours.argmax(1) == labels).mean()),
        export_accuracy=float((theirs.argmax(1) == labels).mean()),
        bytes=size_of(path),
        model_images_per_second=float(len(labels) / seconds[0]),
        export_images_per_second=float(len(labels) / seconds[1]),
        batch_size=len(expected[0]),
        threads=threads or available_cores(),
        threshold=threshold,
    )


def place_when_proved(write, target, prove) -> tuple[Path, Parity]:
    """Writes an export out of sight, compares it, and gives it its name; one that fails gets another name.

    So no server and no reader ever meets an export that is not its model. `NAME.parity.json` tells the result.

    Args:
        write: writes the export into a folder and returns its path there, on the disk of `target`.
        target: where it belongs; nothing may be there.
        prove: path of the export to `Parity`.

    Returns:
        Where it is now, and how it compared.

    Raises:
        ValueError: something is at `target` already; and what `write` and `prove` raise. Nothing is left behind then.
    """
    target = Path(target)
    refuse_existing(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unproved-", dir=target.parent) as staging:
        written = write(Path(staging))
        parity = prove(written)
        place = target if parity.passed else _free_name(target)
        refuse_existing(place)  # another process may have been faster
        os.replace(written, place)
    write_json(place.with_name(f"{place.name}.parity.json"), parity.as_json())
    return place, parity


def thinned(split: Split, count) -> Split:
    """At most `count` examples of a split, evenly spaced, because files come sorted by class."""
    step = -(-split.size // count)
    return Split(-(-split.size // step), split.elements.shard(step, 0), split.read)


def size_of(path) -> int:
    """Bytes of a file, or of all files of a folder."""
    path = Path(path)
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _free_name(target):
    names = (f"{target.stem}.failed{f'-{i}' if i > 1 else ''}{target.suffix}" for i in range(1, 1000))
    return next(path for path in map(target.with_name, names) if not path.exists())

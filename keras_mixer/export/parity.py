"""Verifies an export: its own runtime is compared with the model on a data set before the export gets its name."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mixer.cores import available_cores
from keras_mixer.data.splits import Split
from keras_mixer.description import describe, in_precision, probabilities_of
from keras_mixer.export.runtimes import open_export
from keras_mixer.files import publish, refuse_existing, staging_folder, write_json


@dataclasses.dataclass(frozen=True)
class Threshold:
    """The limits of a comparison; None for no limit.

    Attributes:
        max_difference: largest allowed difference of a probability, in [0, 1].
        min_agreement: smallest allowed fraction of images with the same most probable class, in [0, 1].
    """

    max_difference: float | None = None
    min_agreement: float | None = None

    def __post_init__(self):
        for field, value in dataclasses.asdict(self).items():
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{field} must be in [0, 1], got {value!r}.")

    def changed(self, **given) -> "Threshold":
        """The same with the given values replaced, unless they are None."""
        return dataclasses.replace(self, **{name: value for name, value in given.items() if value is not None})


THRESHOLDS = {
    "float32": Threshold(max_difference=1e-5),
    "float16": Threshold(max_difference=1e-3),
    "bfloat16": Threshold(max_difference=0.05, min_agreement=0.99),
    "dynamic_int8": Threshold(min_agreement=0.99),
    "int8": Threshold(min_agreement=0.99),
}


@dataclasses.dataclass(frozen=True)
class Parity:
    """The result of a comparison of an export with its model on the same images, in alternating calls.

    Attributes:
        runtime: the software that ran the export.
        backend: the Keras backend that ran the model.
        images: number of images compared.
        max_difference: largest difference of a probability (of a feature for a model without a head) over all inputs
            of the export: for a SavedModel float pixels, uint8 pixels and encoded images.
        mean_difference: mean difference for float pixels.
        agreement: fraction of images with the same most probable class (largest feature).
        model_accuracy: top-1 accuracy of the model; None without a head.
        export_accuracy: top-1 accuracy of the export; None without a head.
        inputs: the inputs compared: "image", and for a SavedModel "image_uint8" and "image_bytes".
        bytes: size of the export.
        model_images_per_second: of the calls alone, without reading and cropping.
        export_images_per_second: likewise.
        batch_size: images per call.
        threads: of the export's runtime; the model uses the setting of its backend, by default all cores.
        threshold: the limits.
    """

    runtime: str
    backend: str
    images: int
    max_difference: float
    mean_difference: float
    agreement: float
    model_accuracy: float | None
    export_accuracy: float | None
    inputs: tuple[str, ...]
    bytes: int
    model_images_per_second: float
    export_images_per_second: float
    batch_size: int
    threads: int
    threshold: Threshold

    @property
    def passed(self) -> bool:
        """Whether the comparison is within the limits; NaN never is."""
        allowed, needed = self.threshold.max_difference, self.threshold.min_agreement
        close = np.isfinite(self.max_difference) and (allowed is None or self.max_difference <= allowed)
        return bool(close and (needed is None or self.agreement >= needed))

    def as_json(self) -> dict[str, Any]:
        """All attributes and `passed` as plain data."""
        return dataclasses.asdict(self) | {"passed": self.passed}


def compare(model, path, batches, threshold, threads=None, classifier_activation=None) -> Parity:
    """Runs an export and its model on the same images.

    The model is called unchanged; NumPy scales the pixels to its range and turns logits into probabilities. So the
    expected outputs do not depend on what the exporters add to a model.

    Args:
        model: the exported model; if in mixed precision, its float32 copy is the reference.
        path: the export, as for `open_export`.
        batches: `(images (B, H, W, channels) in [0, 255], labels (B,))`, all but the last of the same size. An optional
            third element `(B,)`, the encoded images that the evaluation crop turns into these images, is compared if
            the export takes encoded images.
        threshold: the limits.
        threads: of the export's runtime; None for all cores.
        classifier_activation: as passed to the export.

    Raises:
        ValueError: there are no images, or the path is not an export of this package.

    Source: ours. Both sides are called once beforehand, so that compilation is not timed.
    """
    reference = _Reference(model, classifier_activation)
    predictor = open_export(path, threads)
    expected: list[np.ndarray] = []
    found: list[np.ndarray] = []
    truth: list[np.ndarray] = []
    other_inputs: dict[str, float] = {}
    seconds = np.zeros(2)
    for images, labels, *encoded in batches:
        pixels = np.asarray(images, np.float32)
        if not expected or len(pixels) != len(expected[-1]):
            reference(pixels)
            predictor.run(pixels)
        start = time.perf_counter()
        expected.append(reference(pixels))
        middle = time.perf_counter()
        found.append(predictor.run(pixels))
        seconds += middle - start, time.perf_counter() - middle
        truth.append(np.asarray(labels))
        given: dict[str, Any] = {
            "image_uint8": images if images.dtype == np.uint8 else None,
            "image_bytes": encoded[0] if encoded else None,
        }
        for name, run in predictor.other_inputs.items():
            if given[name] is not None:
                difference = np.abs(run(given[name]).astype(np.float64) - expected[-1]).max()
                other_inputs[name] = np.maximum(other_inputs.get(name, 0.0), difference)  # keeps NaN
    if not expected:
        raise ValueError("There is no image to compare on.")
    ours, theirs, labels = np.concatenate(expected), np.concatenate(found), np.concatenate(truth)
    differences = np.abs(theirs.astype(np.float64) - ours)
    has_classes = predictor.description.output != "features"
    return Parity(
        runtime=predictor.runtime,
        backend=keras.backend.backend(),
        images=len(labels),
        max_difference=float(np.max([differences.max(), *other_inputs.values()])),
        mean_difference=float(differences.mean()),
        agreement=float((ours.argmax(1) == theirs.argmax(1)).mean()),
        model_accuracy=float((ours.argmax(1) == labels).mean()) if has_classes else None,
        export_accuracy=float((theirs.argmax(1) == labels).mean()) if has_classes else None,
        inputs=("image", *other_inputs),
        bytes=size_of(path),
        model_images_per_second=float(len(labels) / seconds[0]),
        export_images_per_second=float(len(labels) / seconds[1]),
        batch_size=len(expected[0]),
        threads=threads or available_cores(),
        threshold=threshold,
    )


class _Reference:
    """The expected output for pixels in [0, 255], probabilities or features; all but the model itself is NumPy."""

    def __init__(self, model, classifier_activation):
        self.model = in_precision(model, "float32")
        self.description = describe(model, classifier_activation=classifier_activation)

    def __call__(self, pixels):
        black, white = self.description.pixel_range
        scaled = (black + pixels.astype(np.float64) * (white - black) / 255).astype(np.float32)
        output = np.asarray(self.model.predict_on_batch(scaled))
        if self.description.output == "logits":
            return probabilities_of(output, self.description.activation)
        if self.description.output == "features" and output.ndim == 4:
            return output.mean((1, 2))  # (B, g_h, g_w, C): exports return the mean over tokens
        return output


def place_when_proved(write, target, prove) -> tuple[Path, Parity]:
    """Writes an export to a staging folder, verifies it and moves it to `target`, or to another name if it fails.

    A server or reader therefore never sees an unverified export. The result is written to `NAME.parity.json`.

    Args:
        write: writes the export into a given folder and returns its path.
        target: the final path, which must not exist.
        prove: compares the export at a path; returns a `Parity`.

    Returns:
        The path of the export, and the result of the comparison.

    Raises:
        ValueError: `target` exists; also whatever `write` and `prove` raise. Nothing is left behind.
    """
    target = Path(target)
    refuse_existing(target)
    with staging_folder(target.parent) as staging:
        written = write(staging)
        parity = prove(written)
        place = target if parity.passed else _free_name(target)
        refuse_existing(place)  # another process may have been faster
        publish(written, place)
    write_json(place.with_name(f"{place.name}.parity.json"), parity.as_json())
    return place, parity


def subsample(split: Split, count) -> Split:
    """At most `count` examples of a split, evenly spaced because files are sorted by class."""
    return split.part(np.arange(split.size) % -(-split.size // count) == 0)


def size_of(path) -> int:
    """The size in bytes of a file, or of all files in a folder."""
    path = Path(path)
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)


def _free_name(target):
    names = (f"{target.stem}.failed{f'-{i}' if i > 1 else ''}{target.suffix}" for i in range(1, 1000))
    return next(path for path in map(target.with_name, names) if not path.exists())

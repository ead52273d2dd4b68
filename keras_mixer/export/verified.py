"""`export`: writes a model for another runtime and proves that it answers alike before it gets its name."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mixer.anatomy import Anatomy
from keras_mixer.data.batches import evaluation_batches
from keras_mixer.data.decode import for_server
from keras_mixer.data.image_files import naming_damaged_files
from keras_mixer.data.pixel_range import warn_of_range
from keras_mixer.data.splits import Split
from keras_mixer.evaluation.accuracy import probabilities_of
from keras_mixer.evaluation.outputs import class_numbers
from keras_mixer.export.interchange import write_onnx, write_openvino
from keras_mixer.export.predictor import Predictor, in_precision, preprocess_image, read_any_image, require_tensorflow
from keras_mixer.export.runtimes import open_export
from keras_mixer.export.saved_model import version_folder, write_saved_model
from keras_mixer.export.tflite import write_tflite
from keras_mixer.export.tflite_metadata import minimum_runtime
from keras_mixer.export.web import MODEL, write_web
from keras_mixer.fields import Probability, check
from keras_mixer.files import atomic_write, refuse_existing, write_json
from keras_mixer.primitives import available_cores

Limit = Probability | None
# By quantization or precision: largest difference of a probability, smallest fraction of equal top-1; None: no limit.
LIMITS = {"float16": (1e-3, None), "bfloat16": (0.05, 0.99), "dynamic_int8": (None, 0.99), "int8": (None, 0.99)}


@dataclasses.dataclass(frozen=True)
class Format:
    """One format."""

    name: str  # of its file or folder among the exports of a run
    write: Callable  # (predictor, path, **options)
    options: tuple[str, ...] = ()
    opened: str = ""  # the file in a folder that the runtime of the comparison opens; empty for the whole export
    batch_size: int = 32  # images per call in the comparison, unless it is an option

    def target(self, path, version=None) -> Path:
        """The path that is written for `path`: for a SavedModel, a version folder in it."""
        if (suffix := Path(self.name).suffix) and Path(path).suffix != suffix:
            raise ValueError(f"Expected a path ending in {suffix}, got {path}.")
        return version_folder(path, version) if "version" in self.options else Path(path)


FORMATS = {
    "saved_model": Format("saved_model", write_saved_model, ("version", "top_k", "precision")),
    "tflite": Format(
        "model.tflite", write_tflite, ("quantization", "representative_images", "batch_size"), batch_size=1
    ),
    "onnx": Format("model.onnx", write_onnx),
    "openvino": Format("openvino", write_openvino),
    "web": Format("web", write_web, ("quantization", "title", "facts", "examples"), opened=MODEL, batch_size=1),
}


@dataclasses.dataclass(frozen=True)
class Parity:
    """How an export compares with its model on the same images, in alternating calls."""

    path: Path  # of the export
    runtime: str  # the software that ran it
    minimum_runtime: str  # the oldest TensorFlow Lite that runs it; empty for other formats
    images: int  # number of images compared
    max_difference: float  # largest difference of a probability (of a feature without a head) over all `inputs`
    agreement: float  # fraction of images with the same most probable class (largest feature)
    model_accuracy: float | None  # top-1; None without labels or a head
    export_accuracy: float | None
    inputs: tuple[str, ...]  # those compared: "image", and for a SavedModel "image_uint8" and "image_bytes"
    bytes: int  # size of the export
    model_images_per_second: float  # of the calls alone, without reading and cropping
    export_images_per_second: float
    batch_size: int  # images per call
    threads: int  # of the export's runtime; a SavedModel and the model have the setting of TensorFlow
    allowed_difference: float | None  # limit of max_difference; None for no limit
    needed_agreement: float | None  # limit of agreement

    @property
    def passed(self) -> bool:
        """Whether the comparison is within the limits; NaN never is."""
        allowed, needed = self.allowed_difference, self.needed_agreement
        close = np.isfinite(self.max_difference) and (allowed is None or self.max_difference <= allowed)
        return bool(close and (needed is None or self.agreement >= needed))

    def as_json(self) -> dict[str, Any]:
        """All attributes but `path`, and `passed`, as plain data."""
        return {name: value for name, value in vars(self).items() if name != "path"} | {"passed": self.passed}


class ExportDiffers(ValueError):
    """An export differs too much from its model; `parity` has the figures."""

    def __init__(self, parity: Parity):
        super().__init__(
            f"The export differs too much from its model: largest difference {parity.max_difference:.1e}, same top-1 "
            f"{parity.agreement:.2%}. {parity.path} was not written."
        )
        self.parity = parity


def export(
    model,
    format,
    path,
    images=None,
    *,
    class_names=None,
    evaluation_crop=None,
    classifier_activation=None,
    max_difference=None,
    min_agreement=None,
    **options,
) -> Parity:
    """Writes a model for another runtime, after a proof that the runtime gives the model's answers.

    The export is written to a temporary folder, opened by its own runtime and compared with the model, which is called
    as it was built, on pixels that NumPy scales to its range. Then it is renamed to `path`, so that a server or reader
    never sees an export that was not proved. The figures are also written to `NAME.parity.json`.

    Args:
        model: a Mixer of this package, on the TensorFlow backend.
        format: "saved_model", "tflite", "onnx", "openvino" or "web" (a page for browsers).
        path: the file or folder to write; for a SavedModel, the folder of all versions. Nothing is overwritten.
        images: what both are compared on: paths of image files or the bytes of such files, of any size; an array
            `(N, H, W, channels)` of the model's size in [0, 255], or a pair `(array, labels)`, labels as `evaluate`
            takes them, which also gives accuracies. None for 32 images of noise: they say nothing of quantization.
        class_names: as for `export_saved_model`, like the next two.
        evaluation_crop: how images are cropped and resized.
        classifier_activation: "softmax" or "sigmoid" for a model that outputs logits.
        max_difference: largest allowed difference of a probability; None for 1e-5, float16 1e-3, bfloat16 0.05, int8
            no limit.
        min_agreement: smallest allowed fraction of images with the same most probable class; None for 0.99 in int8 and
            bfloat16, else no limit.
        **options: of the format: for "saved_model" `version`, `top_k` and `precision` as in `export_saved_model`; for
            "tflite" `quantization`, `representative_images` and `batch_size` as in `export_tflite`; for "web"
            `quantization`, `title`, `facts` (a dictionary of terms and texts about the model) and `examples`
            (`(class name, bytes of a PNG file)` to click).

    Returns:
        A `Parity` with the figures and the `path` written.

    Raises:
        ValueError: the export differs too much (`error.parity` has the figures), the output exists, the model or an
            argument does not fit the format, or Keras runs on another backend. Nothing is written then.
        ImportError: the format needs an extra that is not installed.

    Example:
        >>> keras_mixer.export(model, "tflite", "model.tflite", ["cat.jpg"]).max_difference  # doctest: +SKIP
        4.8e-07
    """
    require_tensorflow()
    kind = format_with(format, options)
    target = kind.target(path, options.pop("version", None))
    refuse_existing(target)
    limits = LIMITS.get(options.get("quantization") or options.get("precision") or "", (1e-5, None))
    max_difference = check("max_difference", limits[0] if max_difference is None else max_difference, Limit)
    min_agreement = check("min_agreement", limits[1] if min_agreement is None else min_agreement, Limit)
    if images is None and min_agreement is not None:
        raise ValueError("Pass images to compare on: the most probable class of noise says nothing about quantization.")
    predictor = Predictor.of(model, class_names, evaluation_crop, classifier_activation)
    with atomic_write(target) as written:
        kind.write(predictor, written, **options)
        file = written / kind.opened
        opened = open_export(file)
        batches = _batches(images, predictor, options.get("batch_size", kind.batch_size))
        parity = Parity(
            path=target,
            runtime=opened.runtime,
            minimum_runtime=minimum_runtime(file.read_bytes()) if file.suffix == ".tflite" else "",
            bytes=sum(part.stat().st_size for part in (written, *written.rglob("*")) if part.is_file()),
            threads=available_cores(),
            allowed_difference=max_difference,
            needed_agreement=min_agreement,
            **compare(reference_of(model, predictor.activation), opened, batches),
        )
        if not parity.passed:
            raise ExportDiffers(parity)
        refuse_existing(target)  # another process may have been faster
    write_json(target.with_name(f"{target.name}.parity.json"), parity.as_json())
    return parity


def format_with(name, options) -> Format:
    """The format of a name; ValueError if there is none, or if it lacks one of the options."""
    if name not in FORMATS:
        raise ValueError(f"Unknown format {name!r}. Use one of: {', '.join(FORMATS)}.")
    for option in set(options) - set(FORMATS[name].options):
        having = " and ".join(other for other, kind in FORMATS.items() if option in kind.options) or "no format"
        raise ValueError(f"{option} is an option of {having}, not of {name}.")
    return FORMATS[name]


def reference_of(model, activation) -> Callable[[np.ndarray], np.ndarray]:
    """`pixels in [0, 255] -> probabilities or features`: the model as it was built; all around it is NumPy."""
    parts, model = Anatomy(model), in_precision(model, "float32")
    (black, white), kind = parts.input_range(), parts.kind

    def reference(pixels):
        scaled = (black + pixels.astype(np.float64) * (white - black) / 255).astype(np.float32)
        output = np.asarray(model.predict_on_batch(scaled))
        if kind == "logits":
            return probabilities_of(output, activation)
        if kind == "features" and output.ndim == 4:
            return output.mean((1, 2))  # (B, g_h, g_w, C): exports return the mean over tokens
        return output

    return reference


def compare(reference, opened, batches) -> dict[str, Any]:
    """The figures of a `Parity` for batches as `_batches` gives them; both are called once before any time is taken."""
    expected: list[np.ndarray] = []
    truth: list[np.ndarray] = []
    found: dict[str, list[np.ndarray]] = {"image": []}  # by input of the export
    seconds = np.zeros(2)
    for images, labels, encoded in batches:
        pixels = np.asarray(images, np.float32)
        if not expected or len(pixels) != len(expected[-1]):
            reference(pixels)
            opened.run(pixels)
        start = time.perf_counter()
        expected.append(reference(pixels))
        middle = time.perf_counter()
        found["image"].append(opened.run(pixels))
        seconds += middle - start, time.perf_counter() - middle
        truth.append(np.asarray(labels))
        given = {"image_uint8": images if images.dtype == np.uint8 else None, "image_bytes": encoded}
        for name, run in opened.other_inputs.items():
            if given[name] is not None:
                found.setdefault(name, []).append(run(given[name]))
    if not expected:
        raise ValueError("Expected images to compare on, or None for noise, got none.")
    ours, labels = np.concatenate(expected), np.concatenate(truth)
    differences = {name: np.abs(np.concatenate(answers).astype(np.float64) - ours) for name, answers in found.items()}
    best = [one.argmax(1) if one.shape[1] > 1 else one[:, 0] > 0.5 for one in (ours, np.concatenate(found["image"]))]
    labelled = opened.output != "features" and (labels >= 0).all()
    model_accuracy, export_accuracy = (float((one == labels).mean()) if labelled else None for one in best)
    return {
        "images": len(labels),
        "max_difference": float(np.max([one.max() for one in differences.values()])),  # NaN if one is NaN
        "agreement": float((best[0] == best[1]).mean()),
        "model_accuracy": model_accuracy,
        "export_accuracy": export_accuracy,
        "inputs": tuple(found),
        "model_images_per_second": float(len(labels) / seconds[0]),
        "export_images_per_second": float(len(labels) / seconds[1]),
        "batch_size": len(expected[0]),
    }


def _batches(images, predictor, size):
    """`(pixels (B, H, W, channels), labels (B,), encoded (B,))`: as the model takes images, and as a server does.

    Labels are -1 where they are unknown; encoded images are None for arrays.
    """
    shape, crop = predictor.input_shape, predictor.facts.evaluation_crop
    if isinstance(images, Split):
        with naming_damaged_files(images):
            encoded = images.elements.map(lambda element: for_server(images.read(element))).batch(size)
            pixels = evaluation_batches(images, image_size=shape[:2], batch_size=size, crop=crop)
            for (image, label), files in tf.data.Dataset.zip(pixels, encoded).as_numpy_iterator():
                yield image, label, files
        return
    if images is None:
        noise = np.random.default_rng(0).integers(0, 256, (32, *shape), np.uint8)
        images = [tf.io.encode_png(one).numpy() for one in noise] if shape[2] == 3 else noise
    pair = isinstance(images, tuple) and images and hasattr(images[0], "__array__")
    array, labels = images if pair else (images, None)
    files = isinstance(array, list | tuple)
    if not files:
        warn_of_range(array)
    labels = np.full(len(array), -1) if labels is None or not len(array) else class_numbers(np.asarray(labels))
    for start in range(0, len(array), size):
        some = array[start : start + size]
        pixels = np.stack([preprocess_image(one, predictor) for one in some]) if files else np.asarray(some)
        if pixels.shape[1:] != shape:
            raise ValueError(f"Expected images of shape {shape}, got {pixels.shape[1:]}.")
        encoded = np.array([read_any_image(one, for_server).numpy() for one in some], object) if files else None
        yield pixels, labels[start : start + size], encoded

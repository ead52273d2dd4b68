"""`export`: writes a model for another runtime and proves that it answers alike before it gets its name."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mixer.anatomy import Anatomy, activation_of
from keras_mixer.data.batches import evaluation_batches
from keras_mixer.data.splits import CORES, Split, naming_damaged_files
from keras_mixer.evaluation.accuracy import probabilities_of
from keras_mixer.evaluation.outputs import class_numbers, warn_of_range
from keras_mixer.export.interchange import write_onnx, write_openvino
from keras_mixer.export.predictor import Predictor, in_precision, preprocess_image, read_image, require_tensorflow
from keras_mixer.export.runtimes import open_export
from keras_mixer.export.saved_model import for_server, version_folder, write_saved_model
from keras_mixer.export.tflite import write_tflite
from keras_mixer.export.tflite_metadata import minimum_runtime
from keras_mixer.export.web import write_web
from keras_mixer.files import atomic_write, refuse_existing, write_json
from keras_mixer.training.recipe import Probability, check

# By quantization or precision: the largest difference of a probability, the smallest fraction of equal top-1.
LIMITS = {"float16": (1e-3, 0.0), "bfloat16": (0.05, 0.99), "dynamic_int8": (1.0, 0.99), "int8": (1.0, 0.99)}


@dataclasses.dataclass(frozen=True)
class Format:
    """One format."""

    name: str  # of its file or folder among the exports of a run
    write: Callable  # (predictor, path, **options)
    options: tuple[str, ...] = ()


FORMATS = {
    "saved_model": Format("saved_model", write_saved_model, ("version", "top_k", "precision")),
    "tflite": Format("model.tflite", write_tflite, ("quantization", "representative_images", "batch_size")),
    "onnx": Format("model.onnx", write_onnx),
    "openvino": Format("openvino", write_openvino),
    "web": Format("web", write_web, ("quantization", "title", "facts", "examples")),
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
    allowed_difference: float  # limit of max_difference
    needed_agreement: float  # limit of agreement

    @property
    def passed(self) -> bool:
        """Whether the comparison is within the limits; NaN never is."""
        return self.max_difference <= self.allowed_difference and self.agreement >= self.needed_agreement

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
        max_difference: largest allowed difference of a probability; None for 1e-5, float16 1e-3, bfloat16 0.05, int8 1.
        min_agreement: smallest allowed fraction of images with the same most probable class; None for 0.99 in int8 and
            bfloat16, else 0.
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
    target = target_of(format, path, options)
    options.pop("version", None)
    limits = LIMITS.get(options.get("quantization") or options.get("precision") or "", (1e-5, 0.0))
    allowed = check("max_difference", limits[0] if max_difference is None else max_difference, Probability)
    needed = check("min_agreement", limits[1] if min_agreement is None else min_agreement, Probability)
    if images is None and needed:
        raise ValueError("Pass images to compare on: the most probable class of noise says nothing about quantization.")
    predictor = Predictor.of(model, class_names, evaluation_crop, classifier_activation)
    with atomic_write(target) as written:
        FORMATS[format].write(predictor, written, **options)
        files = [file for file in (written, *written.rglob("*")) if file.is_file()]
        opened = open_export(written)
        size = options.get("batch_size", 1 if format in ("tflite", "web") else 32)
        parity = Parity(
            path=target,
            runtime=opened.runtime,
            minimum_runtime="".join(minimum_runtime(one.read_bytes()) for one in files if one.suffix == ".tflite"),
            bytes=sum(file.stat().st_size for file in files),
            threads=CORES,
            allowed_difference=allowed,
            needed_agreement=needed,
            **compare(reference_of(model, predictor.activation), opened, _batches(images, predictor, size)),
        )
        if not parity.passed:
            raise ExportDiffers(parity)
        refuse_existing(target)  # another process may have been faster
    write_json(target.with_name(f"{target.name}.parity.json"), parity.as_json())
    return parity


def target_of(format, path, options) -> Path:
    """What an export to `path` writes; ValueError if that exists, or if the format or one of its options does not."""
    if format not in FORMATS:
        raise ValueError(f"Unknown format {format!r}. Use one of: {', '.join(FORMATS)}.")
    kind = FORMATS[format]
    if unknown := ", ".join(sorted(options.keys() - kind.options)):
        raise ValueError(f"{format} has no option {unknown}; its options are: {', '.join(kind.options) or 'none'}.")
    if (suffix := Path(kind.name).suffix) and Path(path).suffix != suffix:
        raise ValueError(f"Expected a path ending in {suffix}, got {path}.")
    target = version_folder(path, options.get("version")) if format == "saved_model" else Path(path)
    refuse_existing(target)
    return target


def reference_of(model, activation) -> Callable[[np.ndarray], np.ndarray]:
    """`pixels in [0, 255] -> probabilities or features`: the model as it was built; all around it is NumPy."""
    black, white = Anatomy(model).input_range()
    of_logits = activation is not None and activation_of(model) == "linear"
    model = in_precision(model, "float32")

    def reference(pixels):
        scaled = (black + pixels.astype(np.float64) * (white - black) / 255).astype(np.float32)
        output = np.asarray(model.predict_on_batch(scaled))
        if of_logits:
            return probabilities_of(output, activation)
        return output.mean((1, 2)) if output.ndim == 4 else output  # of a grid, exports return the mean over tokens

    return reference


def compare(reference, opened, batches) -> dict[str, Any]:
    """The figures of a `Parity` for batches as `_batches` gives them."""
    runs = {"model": reference, **opened.inputs}
    answers: dict[str, list[np.ndarray]] = {name: [] for name in runs}
    seconds, truth = dict.fromkeys(runs, 0.0), list[np.ndarray]()
    for (images, labels), encoded in batches:
        pixels, as_uint8 = np.asarray(images, np.float32), images if images.dtype == np.uint8 else None
        given = {"model": pixels, "image": pixels, "image_uint8": as_uint8, "image_bytes": encoded}
        for name in [name for name in runs if given[name] is not None]:
            if not truth or len(labels) != len(truth[-1]):
                runs[name](given[name])  # the first call of a size takes longer
            start = time.perf_counter()
            answers[name].append(runs[name](given[name]))
            seconds[name] += time.perf_counter() - start
        truth.append(labels)
    if not truth:
        raise ValueError("Expected images to compare on, or None for noise, got none.")
    found = {name: np.concatenate(parts).astype(np.float64) for name, parts in answers.items() if parts}
    ours, labels = found.pop("model"), np.concatenate(truth)
    best = [one.argmax(1) if one.shape[1] > 1 else one[:, 0] > 0.5 for one in (ours, found["image"])]
    labelled = opened.output != "features" and (labels >= 0).all()
    model_accuracy, export_accuracy = (float((one == labels).mean()) if labelled else None for one in best)
    return {
        "images": len(labels),
        "max_difference": float(np.max([np.abs(one - ours).max() for one in found.values()])),  # NaN if one is NaN
        "agreement": float((best[0] == best[1]).mean()),
        "model_accuracy": model_accuracy,
        "export_accuracy": export_accuracy,
        "inputs": tuple(found),
        "model_images_per_second": len(labels) / seconds["model"],
        "export_images_per_second": len(labels) / seconds["image"],
        "batch_size": len(truth[0]),
    }


def _batches(images, predictor, size):
    """`((pixels (B, H, W, channels), labels (B,)), encoded (B,))`: as the model takes images, and as a server does.

    Labels are -1 where they are unknown; encoded images are None for arrays.
    """
    shape, crop = predictor.input_shape, predictor.facts.evaluation_crop
    if isinstance(images, Split):
        if shape[2] != 3:
            raise ValueError(f"Images of data sets are RGB, but the model takes {shape[2]} channels. Pass arrays.")
        with naming_damaged_files(images):
            encoded = images.elements.map(lambda element: for_server(images.read(element))).batch(size)
            pixels = evaluation_batches(images, image_size=shape[:2], batch_size=size, crop=crop)
            yield from tf.data.Dataset.zip(pixels, encoded).as_numpy_iterator()
        return
    if images is None:
        noise = np.random.default_rng(0).integers(0, 256, (32, *shape), np.uint8)
        images = list(noise) if shape[2] == 3 else noise
    if not hasattr(images, "__len__") or isinstance(images, str | tf.data.Dataset):
        raise ValueError(f"Expected an array or a list of images, or (images, labels), got {type(images).__name__}.")
    pair = isinstance(images, tuple) and images and hasattr(images[0], "__array__")
    array, labels = images if pair else (images, None)
    labels = np.full(len(array), -1) if labels is None else class_numbers(np.asarray(labels))
    if len(labels) != len(array):
        raise ValueError(f"Expected one label per image, got {len(labels)} for {len(array)} images.")
    files = isinstance(array, list | tuple)
    if not files:
        warn_of_range(array)
    for start in range(0, len(array), size):
        some = array[start : start + size]
        pixels = np.stack([preprocess_image(one, predictor) for one in some]) if files else np.asarray(some)
        if pixels.shape[1:] != shape:  # the model might answer
            raise ValueError(f"Expected images of shape {shape}, got {pixels.shape[1:]}.")
        encoded = np.array([read_image(one, for_server).numpy() for one in some], object) if files else None
        yield (pixels, labels[start : start + size]), encoded

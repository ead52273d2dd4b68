"""TFLite (LiteRT) files: images in, probabilities out, with class names and preprocessing in the metadata."""

import importlib.metadata
import json
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_mixer.export.predictor import Predictor, Unsupported
from keras_mixer.export.runtimes import DESCRIPTION
from keras_mixer.export.saved_model import write_functions
from keras_mixer.export.tensorflow_process import write_on_tensorflow
from keras_mixer.export.tflite_metadata import LABELS, add_metadata, operators
from keras_mixer.files import atomic_write, refuse_existing

QUANTIZATIONS = (None, "float16", "dynamic_int8", "int8")


def export_tflite(
    model,
    path,
    *,
    quantization=None,
    representative_images=None,
    batch_size=1,
    class_names=None,
    evaluation_crop=None,
    classifier_activation=None,
):
    """Writes a classifier as a `.tflite` file with input `image` and output `probabilities`.

    The file uses TFLite's built-in operators only, which is checked. It contains TFLite metadata for input, output and
    labels; `labels.txt` and a description of the preprocessing (`keras_mixer.json`) are appended as a zip archive, as
    the metadata format specifies. Runtimes ignore the archive.

    Args:
        model: a classifier of this package, on any backend (see `export_saved_model`).
        path: the file to write; it must not exist.
        quantization: None (float32), "float16" (weights), "dynamic_int8" (weights int8, arithmetic mixed), or "int8"
            (all int8; uint8 pixels in, uint8 probabilities out).
        representative_images: for "int8", images `(N, H, W, channels)` in [0, 255] for calibration, as varied as in
            use.
        batch_size: images per call; fixed in the file.
        class_names: one name per class; None for the model's own, or the class numbers.
        evaluation_crop: stored in the file; None for the model's own, or "resmall-crop".
        classifier_activation: for a model that outputs logits, "softmax" or "sigmoid"; None for the one implied by the
            compiled loss, else "softmax".

    Returns:
        The `Path`, written atomically.

    Raises:
        ValueError: the model has no head or needs an operator that TFLite lacks, an argument is invalid, the file
            exists (nothing is overwritten), or the path is an address.

    Source: ours.
    """
    path = Path(path)
    if quantization not in QUANTIZATIONS:
        valid = ", ".join(str(name) for name in QUANTIZATIONS)
        raise ValueError(f"Unknown quantization {quantization!r}. Use one of: {valid}.")
    if (quantization == "int8") != (representative_images is not None):
        raise ValueError('representative_images are needed for quantization="int8" and only for it.')
    if path.suffix != ".tflite":
        raise ValueError(f"Expected a path that ends in .tflite, got {path}.")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size!r}.")
    refuse_existing(path)
    predictor = Predictor.of(model, class_names, evaluation_crop, classifier_activation).for_conversion("for TFLite")
    if representative_images is not None:
        representative_images = _checked(
            np.asarray(representative_images), predictor.description.input_shape, batch_size
        )
    options = {"quantization": quantization, "images": representative_images, "batch_size": batch_size}
    with atomic_write(path) as temporary:
        write_on_tensorflow(_write, predictor, temporary, **options)
    return path


def _checked(images, shape, batch_size):
    if images.shape[1:] != shape or len(images) < batch_size:
        raise ValueError(
            f"representative_images must have the shape (N, {', '.join(map(str, shape))}) with N at least the batch "
            f"size {batch_size}, got {images.shape}."
        )
    return images


def _write(predictor, path, quantization, images, batch_size):
    model, description = predictor.model, predictor.description
    content = _convert(model, quantization, images, batch_size)
    foreign = [name for name in operators(content) if name.startswith("custom ")]
    if foreign:
        raise Unsupported(f"The model needs operators that TFLite does not have: {', '.join(foreign)}.")
    shape = description.input_shape
    words = f"{shape[0]} x {shape[1]} pixels in [0, 255]; of any image: {description.evaluation_crop}"
    version = importlib.metadata.version("keras_mixer")
    path.write_bytes(add_metadata(content, model.name, version, shape, words))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(LABELS, "\n".join(description.class_names) + "\n")
        archive.writestr(DESCRIPTION, json.dumps(description.as_json(), indent=2) + "\n")


def _convert(model, quantization, representative_images, batch_size):
    @tf.function(input_signature=[tf.TensorSpec((batch_size, *model.input_shape[1:]), tf.float32, name="image")])
    def classify(image):
        return {"probabilities": model(image, training=False)}

    with tempfile.TemporaryDirectory() as folder:
        # Via a SavedModel: in a concrete function, weights would be variables that nothing initializes (NaN).
        write_functions({"serving_default": classify}, model, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if quantization is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantization == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantization == "int8":
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.uint8
            converter.representative_dataset = lambda: _calibration(representative_images, batch_size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it calibrates with its own deprecated interpreter
            return converter.convert()


def _calibration(images, batch_size):
    for start in range(0, len(images) - batch_size + 1, batch_size):
        yield {"image": tf.cast(images[start : start + batch_size], tf.float32)}

"""TFLite (LiteRT) files: images in, probabilities out, with class names and preprocessing in the metadata."""

import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf

from keras_mixer.evaluation.outputs import warn_of_range
from keras_mixer.export.predictor import Predictor, require_tensorflow
from keras_mixer.export.runtimes import DESCRIPTION
from keras_mixer.export.saved_model import write_functions
from keras_mixer.export.tflite_metadata import LABELS, add_metadata
from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.training.recipe import Count, check


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
    """Writes a classifier as a `.tflite` file; `keras_mixer.export` also verifies it.

    It maps `image` (batch_size, H, W, channels) in [0, 255] to `probabilities`, with TFLite's built-in operators only,
    and contains TFLite metadata. `labels.txt` and a description of the preprocessing (`keras_mixer.json`) are appended
    as a zip archive, as the metadata format specifies.

    Args:
        model: a classifier of this package, on the TensorFlow backend.
        path: the file to write; it must not exist.
        quantization: None (float32), "float16" (weights), "dynamic_int8" (weights int8, arithmetic mixed), or "int8"
            (all int8; uint8 pixels in, uint8 probabilities out).
        representative_images: for "int8", images `(N, H, W, channels)` in [0, 255], as varied as in use.
        batch_size: images per call; fixed in the file.
        class_names: one name per class; None for the model's own, or the class numbers.
        evaluation_crop: as for `export_saved_model`; stored in the file.
        classifier_activation: as for `export_saved_model`.

    Returns:
        The `Path`, written atomically.

    Raises:
        ValueError: the model has no head, an argument is invalid, the file exists (nothing is overwritten), the path is
            an address, or Keras runs on another backend.
    """
    require_tensorflow()
    path = Path(path)
    refuse_existing(path)
    predictor = Predictor.of(model, class_names, evaluation_crop, classifier_activation)
    with atomic_write(path) as temporary:
        write_tflite(predictor, temporary, quantization, representative_images, batch_size)
    return path


def write_tflite(predictor, path, quantization=None, representative_images=None, batch_size=1):
    """Writes the file; arguments and errors are those of `export_tflite`."""
    check("quantization", quantization, Literal[None, "float16", "dynamic_int8", "int8"])
    check("batch_size", batch_size, Count)
    if (quantization == "int8") != (representative_images is not None):
        raise ValueError('representative_images are needed for quantization="int8" and only for it.')
    model, shape, facts = predictor.for_classes("for TFLite").model, predictor.input_shape, predictor.facts
    if representative_images is not None:
        found, wanted = np.shape(representative_images), ", ".join(map(str, shape))
        if not found[0] or found[1:] != shape or not np.isfinite(representative_images).all():
            raise ValueError(f"Expected finite representative_images (N, {wanted}), at least one, got shape {found}.")
        warn_of_range(representative_images)
    content = _convert(model, quantization, representative_images, batch_size)
    words = f"{shape[0]} x {shape[1]} pixels in [0, 255]; of any image: {facts.evaluation_crop}"
    path.write_bytes(add_metadata(content, model.name, shape, words))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(LABELS, "\n".join(facts.class_names) + "\n")
        archive.writestr(DESCRIPTION, predictor.as_json())


def _convert(model, quantization, representative_images, batch_size):
    @tf.function(input_signature=[tf.TensorSpec((batch_size, *model.input_shape[1:]), tf.float32, name="image")])
    def classify(image):
        return {"probabilities": model(image, training=False)}

    def calibration():
        images = np.array(representative_images, np.float32)
        images.flat[:2] = 0, 255  # else the brightest pixel of all would be taken for white
        for start in range(0, len(images), batch_size):
            yield {"image": np.take(images, range(start, start + batch_size), 0, mode="wrap")}

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
            converter.representative_dataset = calibration
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it calibrates with its own deprecated interpreter
            return converter.convert()

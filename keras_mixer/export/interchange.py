"""ONNX and OpenVINO models, written by Keras's `export`, with class names and preprocessing inside."""

import json
import tempfile
import warnings
from pathlib import Path

import keras

from keras_mixer.export.predictor import Predictor, Unsupported
from keras_mixer.export.runtimes import METADATA_KEY, OPENVINO_FILE, import_extra
from keras_mixer.export.tensorflow_process import write_on_tensorflow
from keras_mixer.files import atomic_write, refuse_existing


def export_onnx(model, path, *, class_names=None, evaluation_crop=None, classifier_activation=None):
    """Writes a classifier as `.onnx` with input `image` (B, H, W, channels) float32 and output `probabilities`.

    Args:
        model: a classifier of this package, on any backend (see `export_saved_model`).
        path: the file to write; it must not exist.
        class_names: one name per class; None for the model's own, or the class numbers.
        evaluation_crop: stored in the file; None for the model's own, or "resmall-crop".
        classifier_activation: for a model that outputs logits, "softmax" or "sigmoid"; None for the one implied by the
            compiled loss, else "softmax".

    Returns:
        The `Path`, written atomically.

    Raises:
        ValueError: the extra `onnx` is not installed, the model has no head or cannot be converted, or an argument is
            invalid.

    Source: ours, around `keras.Model.export`.
    """
    if Path(path).suffix != ".onnx":
        raise ValueError(f"Expected a path that ends in .onnx, got {path}.")
    refuse_existing(path)
    for module in ("onnx", "tf2onnx"):
        import_extra(module, "onnx")
    return _export(_write_onnx, path, Predictor.of(model, class_names, evaluation_crop, classifier_activation))


def export_openvino(model, path, *, class_names=None, evaluation_crop=None, classifier_activation=None):
    """Writes a classifier as a folder for OpenVINO: `model.xml`, which includes the description, and `model.bin`.

    Args, Returns and Raises are those of `export_onnx`, with the extra `openvino`.
    """
    refuse_existing(path)
    import_extra("openvino", "openvino")
    predictor = Predictor.of(model, class_names, evaluation_crop, classifier_activation)
    return _export(_write_openvino, path, predictor)


def _export(writer, path, predictor):
    path = Path(path)
    with atomic_write(path) as temporary:
        write_on_tensorflow(writer, predictor.for_conversion(f"for {path.name}"), temporary)
    return path


def _named(model):
    """The model with a named output, called once, as Keras's ONNX export requires."""
    named = keras.Model(model.input, {"probabilities": model.output})
    named(keras.ops.zeros((1, *model.input_shape[1:])))
    return named


def _write_onnx(predictor, path):
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Keras uses a NumPy name that tf2onnx once needed
        _named(predictor.model).export(str(path), format="onnx", verbose=False)
    written = onnx.load(str(path))
    onnx.helper.set_model_props(written, {METADATA_KEY: json.dumps(predictor.description.as_json())})
    onnx.save(written, str(path))
    try:
        onnx.checker.check_model(str(path))  # tf2onnx logs operations that it cannot convert, and writes them
    except onnx.checker.ValidationError as error:
        raise Unsupported(f"This model cannot be converted to ONNX: {' '.join(str(error).split())}") from error


def _write_openvino(predictor, folder):
    import openvino

    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # Windows cannot remove a mapped file
    with tempfile.TemporaryDirectory() as name:
        bare = Path(name) / OPENVINO_FILE
        _named(predictor.model).export(str(bare), format="openvino", verbose=False)
        written = core.read_model(str(bare))
    written.set_rt_info(json.dumps(predictor.description.as_json()), [METADATA_KEY])
    folder.mkdir()
    openvino.save_model(written, str(folder / OPENVINO_FILE), compress_to_fp16=False)

"""ONNX and OpenVINO files, written by Keras's own `export`; class names and preprocessing are put inside."""

import json
import warnings
from pathlib import Path

import keras

from keras_mixer.export.predictor import Predictor
from keras_mixer.export.runtimes import DESCRIPTION, ONNX_KEY, import_extra
from keras_mixer.export.tensorflow_process import write_on_tensorflow
from keras_mixer.files import atomic_write, refuse_existing

OPENVINO_FILE = "model.xml"  # its weights lie beside it in model.bin


def export_onnx(model, path, *, class_names=None, evaluation_crop=None, classifier_activation=None):
    """Writes a classifier as `.onnx` with input `image` (B, H, W, channels) float32 and output `probabilities`.

    Args:
        model: a classifier of this package, on any backend (as for `export_saved_model`).
        path: the file to write; it must not exist.
        class_names: one name for each class; None for the model's own, or the class numbers.
        evaluation_crop: described in the file; None for the model's own, or "resmall-crop".
        classifier_activation: for a model of logits, "softmax" or "sigmoid"; None for the one that the loss it was
            compiled with implies, else "softmax".

    Returns:
        The `Path` written. It appears whole or not at all.

    Raises:
        ValueError: extra `onnx` is not installed, the model has no head, or an argument does not fit.

    Source: ours, around `keras.Model.export`.
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"An ONNX file ends in .onnx, unlike {path}.")
    for module in ("onnx", "tf2onnx"):
        import_extra(module, "onnx")
    return _export(_write_onnx, path, Predictor.of(model, class_names, evaluation_crop, classifier_activation))


def export_openvino(model, path, *, class_names=None, evaluation_crop=None, classifier_activation=None):
    """Writes a classifier as a folder for OpenVINO: `model.xml`, `model.bin` and a description.

    Args, Returns and Raises are those of `export_onnx`, with extra `openvino`.
    """
    import_extra("openvino", "openvino")
    predictor = Predictor.of(model, class_names, evaluation_crop, classifier_activation)
    return _export(_write_openvino, Path(path), predictor)


def _export(writer, path, predictor):
    refuse_existing(path)
    with atomic_write(path) as temporary:
        write_on_tensorflow(writer, predictor.for_classes(f"for {path.name}"), temporary)
    return path


def _named(model):
    """The model with a name for its output; called once, as Keras's ONNX export demands."""
    named = keras.Model(model.input, {"probabilities": model.output})
    named(keras.ops.zeros((1, *model.input_shape[1:])))
    return named


def _write_onnx(predictor, path):
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Keras asks NumPy for a name that tf2onnx once needed
        _named(predictor.model).export(str(path), format="onnx", verbose=False)
    written = onnx.load(str(path))
    onnx.helper.set_model_props(written, {ONNX_KEY: json.dumps(predictor.description.as_json())})
    onnx.save(written, str(path))


def _write_openvino(predictor, folder):
    folder.mkdir()
    _named(predictor.model).export(str(folder / OPENVINO_FILE), format="openvino", verbose=False)
    (folder / DESCRIPTION).write_text(json.dumps(predictor.description.as_json(), indent=2) + "\n", encoding="utf-8")

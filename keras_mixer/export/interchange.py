"""ONNX and OpenVINO models, written by Keras's `export`, with class names and preprocessing inside."""

import tempfile
import warnings
from pathlib import Path

import keras

from keras_mixer.export.runtimes import METADATA_KEY, OPENVINO_FILE


def write_onnx(predictor, path):
    """Writes a classifier as `.onnx`: `image` (batch, H, W, channels) float32 in [0, 255] to `probabilities`."""
    import onnx  # of the extra [onnx], as OpenVINO is of its own

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # Keras uses a NumPy name that tf2onnx once needed
        _named(predictor.for_classes("for ONNX").model).export(str(path), format="onnx", verbose=False)
    written = onnx.load(str(path))
    for tensor in (*written.graph.input, *written.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_param = "batch"  # tf2onnx calls it unk__ and a number
    onnx.helper.set_model_props(written, {METADATA_KEY: predictor.as_json()})
    onnx.save(written, str(path))


def write_openvino(predictor, folder):
    """Writes a classifier as a folder for OpenVINO: `model.xml`, which includes the description, and `model.bin`."""
    import openvino

    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # Windows cannot remove a mapped file
    with tempfile.TemporaryDirectory() as name:
        bare = Path(name) / OPENVINO_FILE
        _named(predictor.for_classes("for OpenVINO").model).export(str(bare), format="openvino", verbose=False)
        written = core.read_model(str(bare))
    written.set_rt_info(predictor.as_json(), [METADATA_KEY])
    folder.mkdir()
    openvino.save_model(written, str(folder / OPENVINO_FILE), compress_to_fp16=False)


def _named(model):
    """The model with a named input and output, as at inference, called once, as Keras's ONNX export requires."""
    image = keras.Input(model.input_shape[1:], dtype="float32", name="image")
    (output,) = keras.tree.flatten(model(image, training=False))  # a list, if the model was built with one
    named = keras.Model(image, {"probabilities": output})
    named(keras.ops.zeros((1, *model.input_shape[1:])))
    return named

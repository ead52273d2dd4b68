"""Opens models of all kinds for use, each in its own runtime, as a `Predictor`."""

import contextlib
import importlib
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_mixer.export.predictor import Predictor, load_model, read_description
from keras_mixer.files import as_address
from keras_mixer.primitives import available_cores
from keras_mixer.weights import downloads

DESCRIPTION = "keras_mixer.json"  # inside a TFLite file
SAVED_MODEL_DESCRIPTION = "assets.extra/keras_mixer.json"  # TensorFlow Serving ignores assets.extra
METADATA_KEY = "keras_mixer"  # in the metadata of an ONNX file, in the rt_info of an OpenVINO model
OPENVINO_FILE = "model.xml"  # its weights are next to it in model.bin


def load(path, precision="float32") -> Predictor:
    """Opens a classifier for use: a finished run, a `.keras` file, or an export of any format but the web page.

    Args:
        path: a run directory, a `.keras` file, a SavedModel (one version, or the folder of all for the newest), a
            `.tflite` or `.onnx` file, an OpenVINO folder or its `.xml` file, or `hf://owner/name/file` for one file;
            a run or `.keras` file also at gs://... and other addresses of fsspec.
        precision: of a run or a `.keras` file: "float32", or "bfloat16" for all weights and products before the head,
            which is faster on processors with units for it, and slower on others. An export has its own.

    Returns:
        A `Predictor` with the methods `predict(image, top_k=5)` for one image of any size, and `probabilities(batch)`
        for images of the model's size.

    Raises:
        FileNotFoundError: the path does not exist.
        ImportError: its runtime is not installed.
        ValueError: it is none of these or not of this package, or has no head or another precision.

    Example:
        >>> keras_mixer.load("digits.tflite").predict("seven.png", top_k=1).labels  # doctest: +SKIP
        ('7',)
    """
    path = downloads.local(path)
    stored = as_address(path) is not None
    path = path if stored else Path(path).expanduser()
    if not stored and not path.exists():
        raise FileNotFoundError(f"There is no model at {path}.")
    if stored or Path(path).suffix == ".keras" or Path(path, "model.keras").is_file():
        return Predictor.of(load_model(path), precision=precision).for_classes("to predict")
    if path.is_dir():
        versions = [int(item.name) for item in path.iterdir() if item.name.isdigit()]
        path = path / str(max(versions)) if versions else path
    if (path / "config.json").is_file():
        raise ValueError(f"{path} is a run that did not finish: train again to resume it.")
    if precision != "float32":
        raise ValueError(f"precision={precision!r} is for runs and .keras files, not for {path}. Leave it out.")
    return open_export(path).for_classes("to predict")


def open_export(path) -> Predictor:
    """Opens one version of a SavedModel, a `.tflite` or `.onnx` file, or an OpenVINO folder or `.xml` file."""
    path = Path(path, OPENVINO_FILE) if Path(path, OPENVINO_FILE).is_file() else Path(path)
    openers = {".tflite": _open_tflite, ".onnx": _open_onnx, ".xml": _open_openvino}
    opener = _open_saved_model if (path / "saved_model.pb").is_file() else openers.get(path.suffix)
    if opener is None:
        raise ValueError(f"{path} does not contain a model: no model.keras, saved_model.pb, .tflite, .onnx or .xml.")
    try:
        runtime, described, inputs = opener(path)
    except ImportError:
        raise
    except Exception as error:  # each runtime has its own
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read: it is damaged or incomplete ({reason:.300}).") from error
    if described is None:
        raise ValueError(f"{path} was not written by keras-mixer export: its classes and preprocessing are unknown.")
    run = inputs.pop("image")
    return Predictor(runtime, **read_description(described, path), run=run, other_inputs=inputs)


def _open_saved_model(path):
    """As all openers: `(runtime, description or None, {input name: function of a batch})`."""
    description = path / SAVED_MODEL_DESCRIPTION
    if not description.is_file():
        return "", None, {}
    loaded = tf.saved_model.load(str(path))

    def call(name):
        ((argument, spec),) = loaded.signatures[name].structured_input_signature[1].items()
        found = loaded.signatures[name].structured_outputs
        output = "probabilities" if "probabilities" in found else "pre_logits"
        return lambda images: loaded.signatures[name](**{argument: tf.constant(images, spec.dtype)})[output].numpy()

    signatures = {"image": "serving_default", "image_uint8": "image_uint8", "image_bytes": "image_bytes"}
    inputs = {argument: call(name) for argument, name in signatures.items() if name in loaded.signatures}
    return "TensorFlow", description.read_bytes(), inputs


def _open_tflite(path):
    described = None
    with contextlib.suppress(zipfile.BadZipFile, KeyError), zipfile.ZipFile(path) as archive:
        described = archive.read(DESCRIPTION)
    try:
        lite, name = importlib.import_module("ai_edge_litert.interpreter"), "LiteRT"
    except ImportError:
        lite, name = tf.lite, "TensorFlow Lite"
    interpreter = lite.Interpreter(model_path=str(path), num_threads=available_cores())
    if described is None:
        return name, None, {}
    runner = interpreter.get_signature_runner("serving_default")
    details = runner.get_input_details() | runner.get_output_details()
    size = details["image"]["shape"][0]  # images per call

    def run(images):
        padded = np.concatenate([images, np.repeat(images[-1:], -len(images) % size, axis=0)])  # full batches only
        padded = padded.astype(details["image"]["dtype"])  # float32 or uint8, as the probabilities
        batches = [runner(image=padded[i : i + size])["probabilities"] for i in range(0, len(padded), size)]
        probabilities = np.concatenate(batches)[: len(images)]
        scale, zero_point = details["probabilities"]["quantization"]
        return (probabilities.astype(np.float32) - zero_point) * scale if scale else probabilities

    return name, described, {"image": run}


def _open_onnx(path):
    runtime = import_extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = available_cores()
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    described = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)

    def run(images):
        return session.run(["probabilities"], {"image": np.asarray(images, np.float32)})[0]

    return "ONNX Runtime", described, {"image": run}


def _open_openvino(path):
    openvino = import_extra("openvino", "openvino")
    # The default is bfloat16 on CPUs that have it.
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": available_cores()}
    core = openvino.Core()
    model = core.read_model(str(path))
    compiled = core.compile_model(model, "CPU", exact)
    described = model.get_rt_info([METADATA_KEY]).astype(str) if model.has_rt_info([METADATA_KEY]) else None

    def run(images):
        return np.array(compiled({"image": np.asarray(images, np.float32)})["probabilities"])

    return "OpenVINO", described, {"image": run}


def import_extra(module, extra):
    """A module of an extra of this package; ImportError, with the way to install it, if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"This needs {module}: pip install 'keras-mixer[{extra}]'.") from error

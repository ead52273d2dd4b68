"""Opens models of all kinds for use, each in its own runtime, as a `Predictor`."""

import functools
import importlib
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_mixer.data.splits import CORES
from keras_mixer.export.predictor import Predictor, load_model
from keras_mixer.storage import local_copy
from keras_mixer.weights import downloads

DESCRIPTION = "keras_mixer.json"  # inside a TFLite file
SAVED_MODEL_DESCRIPTION = "assets.extra/keras_mixer.json"  # TensorFlow Serving ignores assets.extra
METADATA_KEY = "keras_mixer"  # in the metadata of an ONNX file, in the rt_info of an OpenVINO model
OPENVINO_FILE = "model.xml"  # in its folder, with the weights next to it in model.bin
WEB_FILE = "model.tflite"  # in the folder of a page


def load(path, precision="float32") -> Predictor:
    """Opens a classifier for use: a finished run, a `.keras` file, or an export.

    Args:
        path: a run directory, a `.keras` file, a SavedModel (one version, or the folder of all for the newest), a
            `.tflite` or `.onnx` file, the folder of OpenVINO or of a web page, an `.xml` file of OpenVINO, or
            `hf://owner/name/file` for one file; a run or `.keras` file also at gs://... or in another object store.
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
    with local_copy(downloads.local(path)) as local:
        if not local.exists():
            raise FileNotFoundError(f"There is no model at {path}.")
        if local.suffix == ".keras" or (local / "model.keras").is_file():
            return Predictor.of(load_model(local), precision=precision).for_classes("to predict")
        if precision != "float32":
            raise ValueError(f"precision={precision!r} is for runs and .keras files, not for {path}. Leave it out.")
        versions = [int(item.name) for item in local.glob("*") if item.name.isdigit()]
        return open_export(local / str(max(versions)) if versions else local).for_classes("to predict")


def open_export(path) -> Predictor:
    """Opens what `keras_mixer.export` writes: for a SavedModel one version, for OpenVINO also its `.xml` file."""
    inside = (Path(path, name) for name in (OPENVINO_FILE, WEB_FILE))
    path = next(filter(Path.is_file, inside), Path(path))
    openers = {".tflite": _open_tflite, ".onnx": _open_onnx, ".xml": _open_openvino}
    opener = _open_saved_model if (path / "saved_model.pb").is_file() else openers.get(path.suffix)
    if opener is None:
        expected = "model.keras (of a finished run), saved_model.pb, .tflite, .onnx or .xml"
        raise ValueError(f"{path} does not contain a model: no {expected}.")
    try:
        return Predictor.from_json(*opener(path))
    except ImportError:
        raise
    except Exception as error:  # each runtime has its own
        reason = " ".join(str(error).split())
        found = f"it is damaged, or was not written by this package ({type(error).__name__}: {reason:.300})"
        raise ValueError(f"{path} cannot be opened: {found}.") from error


def _open_saved_model(path):
    """As all openers: the arguments of `Predictor.from_json`; any error for files of others."""
    description = (path / SAVED_MODEL_DESCRIPTION).read_bytes()
    loaded = tf.saved_model.load(str(path))

    def answer(name, images):
        found = loaded.signatures[name](tf.constant(images))
        return found["probabilities" if "probabilities" in found else "pre_logits"].numpy()

    names = {"image": "serving_default", "image_uint8": "image_uint8", "image_bytes": "image_bytes"}
    inputs = {name: functools.partial(answer, of) for name, of in names.items() if of in loaded.signatures}
    return description, "TensorFlow", inputs


def _open_tflite(path):
    with zipfile.ZipFile(path) as archive:
        description = archive.read(DESCRIPTION)
    try:
        lite, name = importlib.import_module("ai_edge_litert.interpreter"), "LiteRT"
    except ImportError:
        lite, name = tf.lite, "TensorFlow Lite"
    interpreter = lite.Interpreter(model_path=str(path), num_threads=CORES)
    runner = interpreter.get_signature_runner("serving_default")
    details = runner.get_input_details() | runner.get_output_details()
    size, dtype = details["image"]["shape"][0], details["image"]["dtype"]  # images per call
    scale, zero_point = details["probabilities"]["quantization"]  # the scale is 0 in a file of float32

    def run(images):
        missing = -len(images) % size if len(images) else size  # full batches only, and at least one
        pixels = np.rint(np.clip(np.nan_to_num(images), 0, 255)) if scale else images  # uint8 would wrap around
        padded = np.concatenate([pixels, np.zeros((missing, *images.shape[1:]))]).astype(dtype)
        batches = [runner(image=padded[i : i + size])["probabilities"] for i in range(0, len(padded), size)]
        probabilities = np.concatenate(batches)[: len(images)]
        if not scale:
            return probabilities
        unknown = np.isnan(images).any((1, 2, 3))[:, None]  # uint8 has no NaN
        return np.where(unknown, np.nan, (probabilities.astype(np.float32) - zero_point) * np.float32(scale))

    return description, name, {"image": run}


def _open_onnx(path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = CORES
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    description = session.get_modelmeta().custom_metadata_map[METADATA_KEY]
    return description, "ONNX Runtime", {"image": lambda images: session.run(["probabilities"], {"image": images})[0]}


def _open_openvino(path):
    import openvino

    # The default is bfloat16 on CPUs that have it.
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": CORES}
    core = openvino.Core()
    model = core.read_model(str(path))
    compiled = core.compile_model(model, "CPU", exact)
    description = model.get_rt_info([METADATA_KEY]).astype(str)
    return description, "OpenVINO", {"image": lambda images: np.array(compiled({"image": images})["probabilities"])}

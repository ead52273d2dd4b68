"""Opens exported files with the runtimes they are meant for; each becomes one function from pixels to probabilities."""

import dataclasses
import importlib
import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keras_mixer.cores import available_cores

SAVED_MODEL_DESCRIPTION = "assets.extra/keras_mixer.json"  # TensorFlow Serving leaves assets.extra to the owner
DESCRIPTION = "keras_mixer.json"  # inside a TFLite file, beside an OpenVINO model
ONNX_KEY = "keras_mixer"
LARGEST_DESCRIPTION = 100_000_000  # bytes; names of 21,843 classes take about 600,000


@dataclasses.dataclass(frozen=True)
class Runtime:
    """A loaded export.

    Attributes:
        name: the software that runs it.
        description: what `Classifier.description` wrote.
        classify: `(B, H, W, channels) in [0, 255] -> (B, classes) float32`; any B.
    """

    name: str
    description: dict[str, Any]
    classify: Callable[[np.ndarray], np.ndarray]


def open_export(path, threads=None) -> Runtime:
    """Loads one version of a SavedModel, a `.tflite` or `.onnx` file, or an OpenVINO folder.

    Args:
        path: what was written.
        threads: of one call; None for all cores. TensorFlow's own number is that of its process.

    Raises:
        ValueError: it is none of these, was not written by this package, or its runtime is not installed.
    """
    path = Path(path)
    threads = threads or available_cores()
    if path.suffix == ".tflite":
        return _open_tflite(path, threads)
    if path.suffix == ".onnx":
        return _open_onnx(path, threads)
    if (path / "model.xml").is_file():
        return _open_openvino(path, threads)
    if (path / "saved_model.pb").is_file():
        return _open_saved_model(path)
    raise ValueError(f"{path} is no SavedModel, no .tflite or .onnx file and no OpenVINO folder.")


def read_description(text, path) -> dict[str, Any]:
    """What `Classifier.description` wrote, from JSON.

    Raises:
        ValueError: the text is none.
    """
    try:
        content = json.loads(text)
        height, width, channels = content["input_shape"]
        sides = all(type(side) is int and side > 0 for side in (height, width, channels))
        names = all(isinstance(name, str) for name in content["class_names"])
        if sides and names and isinstance(content["evaluation_crop"], str):
            return content
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{path}: the description of the model is damaged ({error}).") from error
    raise ValueError(f"{path}: the description of the model is damaged ({content!r:.200}).")


def open_interpreter(path, threads=None):
    """A TFLite interpreter: LiteRT where it is installed, else the one inside TensorFlow."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    return Interpreter(model_path=str(path), num_threads=threads)


def _open_saved_model(path):
    import tensorflow as tf

    file = path / SAVED_MODEL_DESCRIPTION
    if not file.is_file():
        raise ValueError(f"SavedModel {path} was not written by this package: it lacks {SAVED_MODEL_DESCRIPTION}.")
    description = read_description(file.read_bytes(), path)
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]

    def classify(images, keep_alive=loaded):
        return signature(image=tf.constant(images, tf.float32))["probabilities"].numpy()

    return Runtime("TensorFlow", description, classify)


def _open_tflite(path, threads):
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(DESCRIPTION).file_size > LARGEST_DESCRIPTION:
                raise ValueError(
                    f"TFLite file {path}: {DESCRIPTION} inside is larger than {LARGEST_DESCRIPTION:,} bytes."
                )
            description = read_description(archive.read(DESCRIPTION), path)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise ValueError(
            f"TFLite file {path} was not written by this package: it has no class names inside."
        ) from error
    runner = open_interpreter(path, threads).get_signature_runner("serving_default")
    batch_size = int(runner.get_input_details()["image"]["shape"][0])

    def classify(images):
        count = len(images)
        padding = -count % batch_size  # the file takes whole batches only
        whole = np.concatenate([images, np.repeat(images[-1:], padding, axis=0)]) if padding else images
        parts = [run_tflite(runner, whole[i : i + batch_size]) for i in range(0, len(whole), batch_size)]
        return np.concatenate(parts)[:count]

    return Runtime("LiteRT", description, classify)


def run_tflite(runner, images):
    """Feeds pixels to a float32 or a uint8 file and gives float32 probabilities back; one batch of the file's size."""
    wanted = runner.get_input_details()["image"]
    given = runner.get_output_details()["probabilities"]
    probabilities = runner(image=np.asarray(images, wanted["dtype"]))["probabilities"]
    if given["dtype"] is np.uint8:
        scale, zero_point = given["quantization"]
        probabilities = (probabilities.astype(np.float32) - zero_point) * scale
    return probabilities


def _open_onnx(path, threads):
    runtime = import_extra("onnxruntime", "onnx")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    described = session.get_modelmeta().custom_metadata_map.get(ONNX_KEY)
    if described is None:
        raise ValueError(f"ONNX file {path} was not written by this package: its metadata lacks {ONNX_KEY!r}.")

    def classify(images):
        return session.run(["probabilities"], {"image": np.asarray(images, np.float32)})[0]

    return Runtime("ONNX Runtime", read_description(described, path), classify)


def _open_openvino(path, threads):
    openvino = import_extra("openvino", "openvino")
    if not (path / DESCRIPTION).is_file():
        raise ValueError(f"OpenVINO model {path} was not written by this package: it lacks {DESCRIPTION}.")
    exact = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}  # else bfloat16 where the CPU has it
    compiled = openvino.Core().compile_model(str(path / "model.xml"), "CPU", exact)

    def classify(images):
        return np.array(compiled({"image": np.asarray(images, np.float32)})["probabilities"])

    return Runtime("OpenVINO", read_description((path / DESCRIPTION).read_bytes(), path), classify)


def import_extra(module, extra):
    """A module of an extra of this package.

    Raises:
        ValueError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"This needs {module}: pip install 'keras-mixer[{extra}]'.") from error

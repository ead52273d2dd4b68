"""Opens exported models in their own runtimes, each as a `Predictor`."""

import importlib
import zipfile
import zlib
from pathlib import Path

import numpy as np

from keras_mixer.cores import available_cores
from keras_mixer.description import Description
from keras_mixer.export.predictor import Predictor

SAVED_MODEL_DESCRIPTION = "assets.extra/keras_mixer.json"  # TensorFlow Serving ignores assets.extra
DESCRIPTION = "keras_mixer.json"  # inside a TFLite file, next to an OpenVINO model
ONNX_KEY = "keras_mixer"
LARGEST_DESCRIPTION = 100_000_000  # bytes; 21,843 class names take about 600,000


def open_export(path, threads=None) -> Predictor:
    """Loads one version of a SavedModel, a `.tflite` or `.onnx` file, or an OpenVINO folder.

    Args:
        path: the export.
        threads: used by one call; None for all cores. TensorFlow uses the setting of its process instead.

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
    raise ValueError(f"{path} is not a SavedModel, a .tflite or .onnx file, or an OpenVINO folder.")


def open_interpreter(path, threads=None):
    """A TFLite interpreter and its name: LiteRT if installed, else the one inside TensorFlow."""
    name = "LiteRT"
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        Interpreter, name = tf.lite.Interpreter, "TensorFlow Lite"
    return Interpreter(model_path=str(path), num_threads=threads), name


def _open_saved_model(path):
    import tensorflow as tf

    file = path / SAVED_MODEL_DESCRIPTION
    if not file.is_file():
        raise ValueError(f"SavedModel {path} was not written by this package: it lacks {SAVED_MODEL_DESCRIPTION}.")
    description = Description.from_json(file.read_bytes(), path)
    loaded = tf.saved_model.load(str(path))

    def call(name, argument, dtype, output, keep_alive=loaded):
        signature = loaded.signatures[name]
        return lambda images: signature(**{argument: tf.constant(images, dtype)})[output].numpy()

    if description.output == "features":
        return Predictor("TensorFlow", description, call("features", "image", tf.float32, "pre_logits"))
    inputs = {"image_uint8": ("image", tf.uint8), "image_bytes": ("image_bytes", tf.string)}
    others = {name: call(name, *how, "probabilities") for name, how in inputs.items() if name in loaded.signatures}
    return Predictor("TensorFlow", description, call("serving_default", "image", tf.float32, "probabilities"), others)


def _open_tflite(path, threads):
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo(DESCRIPTION).file_size > LARGEST_DESCRIPTION:
                raise ValueError(
                    f"TFLite file {path}: {DESCRIPTION} inside is larger than {LARGEST_DESCRIPTION:,} bytes."
                )
            description = Description.from_json(archive.read(DESCRIPTION), path)
    except (zipfile.BadZipFile, KeyError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise ValueError(
            f"TFLite file {path} was not written by this package: it has no class names inside."
        ) from error
    interpreter, name = open_interpreter(path, threads)
    runner = interpreter.get_signature_runner("serving_default")
    batch_size = int(runner.get_input_details()["image"]["shape"][0])

    def run(images):
        count = len(images)
        padding = -count % batch_size  # the file takes full batches only
        padded = np.concatenate([images, np.repeat(images[-1:], padding, axis=0)]) if padding else images
        batches = [run_tflite(runner, padded[i : i + batch_size]) for i in range(0, len(padded), batch_size)]
        return np.concatenate(batches)[:count]

    return Predictor(name, description, run)


def run_tflite(runner, images):
    """Runs one batch of the file's size; float32 probabilities, whether the file takes float32 or uint8 pixels."""
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

    def run(images):
        return session.run(["probabilities"], {"image": np.asarray(images, np.float32)})[0]

    return Predictor("ONNX Runtime", Description.from_json(described, path), run)


def _open_openvino(path, threads):
    openvino = import_extra("openvino", "openvino")
    if not (path / DESCRIPTION).is_file():
        raise ValueError(f"OpenVINO model {path} was not written by this package: it lacks {DESCRIPTION}.")
    exact = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }  # the default is bfloat16 on CPUs that have it
    compiled = openvino.Core().compile_model(str(path / "model.xml"), "CPU", exact)

    def run(images):
        return np.array(compiled({"image": np.asarray(images, np.float32)})["probabilities"])

    return Predictor("OpenVINO", Description.from_json((path / DESCRIPTION).read_bytes(), path), run)


def import_extra(module, extra):
    """A module of an extra of this package.

    Raises:
        ValueError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"This needs {module}: pip install 'keras-mixer[{extra}]'.") from error

"""Opens exported models in their own runtimes, each as a `Predictor`."""

import contextlib
import importlib
import zipfile
import zlib
from pathlib import Path

import numpy as np

from keras_mixer.cores import available_cores
from keras_mixer.description import SAVED_MODEL_DESCRIPTION, Description
from keras_mixer.export.predictor import Predictor, Unsupported

DESCRIPTION = "keras_mixer.json"  # inside a TFLite file, next to an OpenVINO model of version 0.1.0
METADATA_KEY = "keras_mixer"  # in the metadata of an ONNX file, in the rt_info of an OpenVINO model
OPENVINO_FILE = "model.xml"  # its weights are next to it in model.bin
LARGEST_DESCRIPTION = 100_000_000  # bytes; 21,843 class names take about 600,000


def open_export(path, threads=None) -> Predictor:
    """Loads one version of a SavedModel, a `.tflite` or `.onnx` file, or an OpenVINO folder or `.xml` file.

    Args:
        path: the export.
        threads: used by one call; None for all cores. TensorFlow uses the setting of its process instead.

    Raises:
        ValueError: it is none of these, is damaged, was not written by this package, has an input of another layout
            than this package writes, or its runtime is not installed.
    """
    path = Path(path)
    threads = threads or available_cores()
    if path.suffix == ".tflite":
        return _open_tflite(path, threads)
    if path.suffix == ".onnx":
        return _open_onnx(path, threads)
    if path.suffix == ".xml":
        return _open_openvino(path, threads)
    if (path / OPENVINO_FILE).is_file():
        return _open_openvino(path / OPENVINO_FILE, threads)
    if (path / "saved_model.pb").is_file():
        return _open_saved_model(path)
    raise ValueError(f"{path} is not a SavedModel, a .tflite or .onnx file, or an OpenVINO folder or .xml file.")


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
    with _reading(path, "TFLite"):
        interpreter, name = open_interpreter(path, threads)
        runner = interpreter.get_signature_runner("serving_default")
    _check_layout(path, description, *map(_tflite_tensors, (runner.get_input_details(), runner.get_output_details())))
    batch_size = int(runner.get_input_details()["image"]["shape"][0])

    def run(images):
        count = len(images)
        padding = -count % batch_size  # the file takes full batches only
        padded = np.concatenate([images, np.repeat(images[-1:], padding, axis=0)]) if padding else images
        batches = [run_tflite(runner, padded[i : i + batch_size]) for i in range(0, len(padded), batch_size)]
        return np.concatenate(batches)[:count]

    return Predictor(name, description, run)


def _tflite_tensors(details):
    return {name: tuple(map(int, tensor["shape"])) for name, tensor in details.items()}


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
    with _reading(path, "ONNX"):
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    inputs, outputs = (
        {one.name: tuple(one.shape) for one in ends} for ends in (session.get_inputs(), session.get_outputs())
    )
    described = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if described is None:
        raise _foreign(path, "ONNX file", f"its metadata lacks {METADATA_KEY!r}", inputs)
    description = Description.from_json(described, path)
    _check_layout(path, description, inputs, outputs)

    def run(images):
        return session.run(["probabilities"], {"image": np.asarray(images, np.float32)})[0]

    return Predictor("ONNX Runtime", description, run)


def _open_openvino(path, threads):
    openvino = import_extra("openvino", "openvino")
    if not path.with_suffix(".bin").is_file():
        raise ValueError(f"OpenVINO model {path} lacks its weights: there is no {path.with_suffix('.bin')}.")
    exact = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
    }  # the default is bfloat16 on CPUs that have it
    core = openvino.Core()
    with _reading(path, "OpenVINO"):
        model = core.read_model(str(path))
        compiled = core.compile_model(model, "CPU", exact)
    inputs, outputs = map(_openvino_tensors, (model.inputs, model.outputs))
    if model.has_rt_info([METADATA_KEY]):
        described = model.get_rt_info([METADATA_KEY]).astype(str)
    elif path.with_name(DESCRIPTION).is_file():
        described = path.with_name(DESCRIPTION).read_bytes()
    else:
        raise _foreign(path, "OpenVINO model", f"its rt_info lacks {METADATA_KEY!r}", inputs)
    description = Description.from_json(described, path)
    _check_layout(path, description, inputs, outputs)

    def run(images):
        return np.array(compiled({"image": np.asarray(images, np.float32)})["probabilities"])

    return Predictor("OpenVINO", description, run)


def _openvino_tensors(ports):
    return {
        name: tuple(side.get_length() if side.is_static else None for side in port.partial_shape)
        for port in ports
        for name in port.names
    }


@contextlib.contextmanager
def _reading(path, kind):
    """Turns the error of a runtime that cannot read a file into a sentence; each runtime has errors of its own."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{kind} model {path} cannot be read: it is damaged or incomplete ({reason:.300}).") from error


def _foreign(path, kind, lack, inputs):
    """The error for a model without a description, which could be anything."""
    shapes = ", ".join(f"{name} {shape}" for name, shape in inputs.items())
    return ValueError(
        f"{kind} {path} was not written by this package: {lack}, so its classes and preprocessing are unknown (inputs: "
        f"{shapes}). Write it with keras-mixer export."
    )


def _check_layout(path, description, inputs, outputs):
    """Compares a file with its own description: another program may have changed its layout and kept the description.

    Args:
        path: the file, for the message.
        description: from the file.
        inputs: `{name: shape}`; the first side is the batch size, which may be fixed.
        outputs: likewise.

    Raises:
        ValueError: input or output have other names or shapes than described.
    """
    height, width, channels = description.input_shape
    wanted = {"image": (height, width, channels)}, {"probabilities": (len(description.class_names),)}
    found = tuple({name: shape[1:] for name, shape in ends.items()} for ends in (inputs, outputs))
    if found != wanted:
        raise ValueError(
            f"{path} has another layout than this package writes. Expected image (B, {height}, {width}, {channels}) "
            f"and probabilities (B, {len(description.class_names)}), got inputs {inputs} and outputs {outputs}. Export "
            "the model again."
        )


def import_extra(module, extra):
    """A module of an extra of this package.

    Raises:
        Unsupported: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise Unsupported(f"This needs {module}: pip install 'keras-mixer[{extra}]'.") from error

"""Opens a trained model from a run directory, a `.keras` file or an export."""

from pathlib import Path

import keras

from keras_mixer.description import completed
from keras_mixer.export.predictor import Predictor
from keras_mixer.export.runtimes import OPENVINO_FILE, open_export
from keras_mixer.storage import local_copy
from keras_mixer.weights import downloads
from keras_mixer.weights.readers import load_keras


def load_predictor(path) -> Predictor:
    """Loads a classifier for `predict`.

    Args:
        path: a run directory, a `.keras` file, a SavedModel (one version, or the folder of all versions for the
            newest), a `.tflite` or `.onnx` file, an OpenVINO folder or its `.xml` file, or `hf://owner/name/file` for
            one of the single files.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: it is none of these, was not written by this package, or has no head.

    Source: ours.
    """
    path = Path(downloads.local(path))
    if not path.exists():
        raise FileNotFoundError(f"There is no model at {path}.")
    return _open(path).for_classes("to predict")


def _open(path):
    if path.suffix in (".tflite", ".onnx", ".xml"):
        return open_export(path)
    if path.is_file():
        return Predictor.of(load_model(path))
    if (path / "model.keras").is_file():
        return Predictor.of(load_model(path / "model.keras"))
    versions = sorted(int(item.name) for item in path.iterdir() if item.name.isdigit())
    if versions:
        path = path / str(versions[-1])
    if (path / "saved_model.pb").is_file() or (path / OPENVINO_FILE).is_file():
        return open_export(path)
    unfinished = (
        " It is a run that did not finish: train again to resume it." if (path / "config.json").is_file() else ""
    )
    raise ValueError(
        f"{path} does not contain a model.{unfinished} Expected a run directory with model.keras, a .keras file, "
        "a SavedModel, a .tflite or .onnx file, or an OpenVINO folder or .xml file."
    )


def load_mixer(path) -> keras.Model:
    """The Mixer of a run directory or `.keras` file, for pixels in [0, 255] even if it was saved without preprocessing.

    Raises:
        ValueError: the path does not contain such a model.
    """
    return completed(load_model(path))


def load_model(path) -> keras.Model:
    """The Keras model of a run directory or `.keras` file, exactly as it was saved.

    Both may also be in an object store (`gs://bucket/run`), and a file on the Hugging Face Hub (`hf://owner/name`).

    Raises:
        ValueError: the path does not contain such a model.
    """
    with local_copy(downloads.local(path), only="model.keras") as local:
        file = local / "model.keras" if local.is_dir() else local
        if not file.is_file() or file.suffix != ".keras":
            raise ValueError(f"{path} is neither a finished run directory nor a .keras file.")
        return load_keras(file, compile=True)

"""Opens whatever holds a model: a run, a `.keras` file, an export."""

from pathlib import Path

import keras

from keras_mixer.description import with_arguments
from keras_mixer.export.predictor import Predictor
from keras_mixer.export.runtimes import open_export
from keras_mixer.weights.hdf5 import check_keras


def load_predictor(path) -> Predictor:
    """Loads a classifier for `predict`.

    Args:
        path: a run directory, a `.keras` file, a SavedModel (one version, or the folder of all versions: the newest is
            taken), a `.tflite` or `.onnx` file, or an OpenVINO folder.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is none of these, was not written by this package, or has no head.

    Source: ours.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no model at {path}.")
    return _opened(path).for_classes("to predict")


def _opened(path):
    if path.suffix in (".tflite", ".onnx"):
        return open_export(path)
    if path.is_file():
        return Predictor.of(load_model(path))
    if (path / "model.keras").is_file():
        return Predictor.of(load_model(path / "model.keras"))
    versions = sorted(int(item.name) for item in path.iterdir() if item.name.isdigit())
    if versions:
        path = path / str(versions[-1])
    if (path / "saved_model.pb").is_file() or (path / "model.xml").is_file():
        return open_export(path)
    unfinished = (
        " It is a run that did not finish: train again to resume it." if (path / "config.json").is_file() else ""
    )
    raise ValueError(
        f"{path} holds no model.{unfinished} Expected a run directory with model.keras, a .keras file, a SavedModel, "
        "a .tflite or .onnx file or an OpenVINO folder."
    )


def load_mixer(path) -> keras.Model:
    """The Mixer of a run directory or `.keras` file, for pixels in [0, 255] however it was saved.

    Raises:
        ValueError: the path holds no such model.
    """
    return with_arguments(load_model(path), include_preprocessing=True)


def load_model(path) -> keras.Model:
    """The Keras model of a run directory or `.keras` file, exactly as it was saved.

    Raises:
        ValueError: the path holds no such model.
    """
    path = Path(path)
    file = path / "model.keras" if path.is_dir() else path
    if not file.is_file() or file.suffix != ".keras":
        raise ValueError(f"{path} is neither a finished run directory nor a .keras file.")
    check_keras(file)
    try:
        return keras.saving.load_model(file, safe_mode=True)  # no code from the file
    except Exception as error:  # Keras raises whatever its JSON, registry or HDF5 reader does
        raise ValueError(f"{file} is not a readable .keras file: {error}") from error

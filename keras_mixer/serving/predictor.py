"""One way to classify image files with whatever holds a model: a run, a `.keras` file, an export."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_mixer.data.preprocessing import evaluation_image, why_unreadable
from keras_mixer.export.runtimes import open_export
from keras_mixer.models import class_names_of, evaluation_crop_of
from keras_mixer.serving.prediction import Prediction
from keras_mixer.weights.hdf5 import check_keras


@dataclasses.dataclass(frozen=True)
class Predictor:
    """A loaded classifier.

    Attributes:
        image_size: `(height, width)` of its input in pixels.
        class_names: one for each class.
        evaluation_crop: how images are brought to size.
        classify: `(B, height, width, 3) float32 in [0, 255] -> (B, classes) float32`.
    """

    image_size: tuple[int, int]
    class_names: tuple[str, ...]
    evaluation_crop: str
    classify: Callable[[np.ndarray], np.ndarray]

    def probabilities(self, path) -> np.ndarray:
        """`(classes,) float32` for one image file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it cannot be decoded.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"There is no image file {path}.")
        try:
            image = evaluation_image(tf.io.read_file(str(path)), self.image_size, self.evaluation_crop)
        except tf.errors.InvalidArgumentError as error:
            raise ValueError(why_unreadable(path, error)) from error
        return self.classify(np.asarray(image, np.float32)[None])[0]

    def predict(self, path, top_k=5) -> Prediction:
        """The `top_k` most probable classes of one image file; Raises as `probabilities`."""
        probabilities = self.probabilities(path)
        best = np.argsort(-probabilities, kind="stable")[:top_k]
        return Prediction(
            str(path), tuple(self.class_names[i] for i in best), tuple(float(probabilities[i]) for i in best)
        )


def load_predictor(path) -> Predictor:
    """Loads a classifier for `predict`.

    Args:
        path: a run directory, a `.keras` file, a SavedModel (one version, or the folder of all versions: the newest is
            taken), a `.tflite` or `.onnx` file, or an OpenVINO folder.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is none of these, or was not written by this package.

    Source: ours.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no model at {path}.")
    if path.suffix in (".tflite", ".onnx"):
        return _from_export(path)
    if path.is_file():
        return _from_keras(path)
    if (path / "model.keras").is_file():
        return _from_keras(path / "model.keras")
    versions = sorted(int(item.name) for item in path.iterdir() if item.name.isdigit())
    if versions:
        path = path / str(versions[-1])
    if (path / "saved_model.pb").is_file() or (path / "model.xml").is_file():
        return _from_export(path)
    unfinished = (
        " It is a run that did not finish: train again to resume it." if (path / "config.json").is_file() else ""
    )
    raise ValueError(
        f"{path} holds no model.{unfinished} Expected a run directory with model.keras, a .keras file, a SavedModel, "
        "a .tflite or .onnx file or an OpenVINO folder."
    )


def load_classifier(path) -> keras.Model:
    """The Keras model of a run directory or `.keras` file.

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
        raise ValueError(f"{file} is no readable .keras file: {error}") from error


def _from_keras(path):
    model = load_classifier(path)
    return Predictor(model.input_shape[1:3], class_names_of(model), evaluation_crop_of(model), model.predict_on_batch)


def _from_export(path):
    runtime = open_export(path)
    height, width, _ = runtime.description["input_shape"]
    names, crop = tuple(runtime.description["class_names"]), runtime.description["evaluation_crop"]
    return Predictor((height, width), names, crop, runtime.classify)

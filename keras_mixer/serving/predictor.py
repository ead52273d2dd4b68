"""One way to classify image files with whatever holds a model: a run, a `.keras` file, a SavedModel, a TFLite file."""

import dataclasses
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_mixer.data.preprocessing import evaluation_image
from keras_mixer.export import saved_model, tflite
from keras_mixer.models import class_names_of, evaluation_crop_of


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The best classes of one image.

    Attributes:
        image: its path.
        labels: class names, best first.
        probabilities: of these, each in [0, 1].
    """

    image: str
    labels: tuple[str, ...]
    probabilities: tuple[float, ...]


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
            raise ValueError(
                f"{path} cannot be decoded; it must be a whole JPEG, PNG, GIF, BMP or WebP image."
            ) from error
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
            taken), or a `.tflite` file.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is none of these, or was not written by this package.

    Source: ours.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no model at {path}.")
    if path.suffix == ".tflite":
        return _from_tflite(path)
    if path.is_file():
        return _from_keras(path)
    if (path / "model.keras").is_file():
        return _from_keras(path / "model.keras")
    versions = sorted(int(item.name) for item in path.iterdir() if item.name.isdigit())
    if versions:
        path = path / str(versions[-1])
    if (path / "saved_model.pb").is_file():
        return _from_saved_model(path)
    unfinished = (
        " It is a run that did not finish: train again to resume it." if (path / "config.json").is_file() else ""
    )
    raise ValueError(
        f"{path} holds no model.{unfinished} Expected a run directory with model.keras, a .keras file, a SavedModel "
        "or a .tflite file."
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
    return keras.saving.load_model(file)


def _from_keras(path):
    model = load_classifier(path)
    return Predictor(model.input_shape[1:3], class_names_of(model), evaluation_crop_of(model), model.predict_on_batch)


def _from_saved_model(path):
    description = path / saved_model.DESCRIPTION
    if not description.is_file():
        raise ValueError(f"SavedModel {path} was not written by this package: it lacks {saved_model.DESCRIPTION}.")
    loaded = tf.saved_model.load(str(path))
    signature = loaded.signatures["serving_default"]

    def classify(images, keep_alive=loaded):
        return signature(image=tf.constant(images))["probabilities"].numpy()

    return _described(json.loads(description.read_text(encoding="utf-8")), classify)


def _from_tflite(path):
    try:
        with zipfile.ZipFile(path) as archive:
            description = json.loads(archive.read(tflite.DESCRIPTION))
    except (zipfile.BadZipFile, KeyError) as error:
        raise ValueError(
            f"TFLite file {path} was not written by this package: it has no class names inside."
        ) from error
    runner = open_interpreter(path).get_signature_runner("serving_default")
    return _described(description, lambda images: _run_tflite(runner, images))


def open_interpreter(path):
    """A TFLite interpreter: LiteRT where it is installed, else the one inside TensorFlow."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        Interpreter = tf.lite.Interpreter
    return Interpreter(model_path=str(path))


def _run_tflite(runner, images):
    """Feeds float pixels to a float32 or a uint8 file and gives float probabilities back."""
    wanted = runner.get_input_details()["image"]
    given = runner.get_output_details()["probabilities"]
    probabilities = runner(image=np.asarray(images, wanted["dtype"]))["probabilities"]
    if given["dtype"] is np.uint8:
        scale, zero_point = given["quantization"]
        probabilities = (probabilities.astype(np.float32) - zero_point) * scale
    return probabilities


def _described(description, classify):
    height, width, _ = description["input_shape"]
    return Predictor((height, width), tuple(description["class_names"]), description["evaluation_crop"], classify)

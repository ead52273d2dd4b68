"""A loaded model, ready for use: pixels in [0, 255] in, probabilities or features out."""

import dataclasses
import io
import json
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import keras
import numpy as np
import pydantic
import tensorflow as tf
from PIL import Image, ImageOps

from keras_mixer.anatomy import PIXELS, POOLING, Anatomy, activation_of
from keras_mixer.data.decode import evaluation_crop, image_of, read_orientation, reason_of
from keras_mixer.evaluation.accuracy import ACTIVATIONS, implied_activation
from keras_mixer.evaluation.outputs import warn_of_range
from keras_mixer.mixer_model import ModelFacts, checked_class_names
from keras_mixer.storage import local_copy
from keras_mixer.training.recipe import Count, EvaluationCrop, check
from keras_mixer.weights import downloads
from keras_mixer.weights.readers import load_keras, model_file
from keras_mixer.weights.resolution import model_like, rebuild

Output = Literal["probabilities", "features"]
Precision = Literal["float32", "bfloat16"]
INTERFACE = ("input_shape", "output", "activation")  # fields of a predictor that its description has next to the facts


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The best classes of one image, from a model in memory or from a server."""

    image: str  # its path; empty for pixels and bytes
    labels: tuple[str, ...]  # class names, best first
    probabilities: tuple[float, ...]  # of these, each in [0, 1]


@pydantic.dataclasses.dataclass(frozen=True)
class Predictor:
    """A Keras model or an export, with everything needed to use it; `keras_mixer.load` returns it."""

    runtime: str  # the software that runs it
    facts: ModelFacts  # with class names (none for features) and evaluation crop; pixels are in [0, 255]
    input_shape: tuple[Count, Count, Count]  # (H, W, channels)
    output: Output
    activation: Literal["softmax", "sigmoid"] | None  # that made probabilities of logits; None for features
    # Functions by input: `image` (B, H, W, channels) float32 in [0, 255] to (B, n) float32, for any B. A SavedModel has
    # two more, the same images as uint8 or encoded: `image_uint8` and `image_bytes`.
    inputs: Mapping[str, Callable[[np.ndarray], np.ndarray]]
    model: Any = None  # a keras.Model with preprocessing and activation; None for an export

    @classmethod
    def of(cls, model, class_names=None, evaluation_crop=None, classifier_activation=None, precision="float32"):
        """Adds what a Mixer lacks to a copy: preprocessing, activation, precision; as for `export_saved_model`."""
        mixer = Anatomy(model)
        activation = _activation(mixer, classifier_activation)
        classes = 0 if activation is None else model.output_shape[-1]
        numbers = range(classes) if classes != 1 else [1]  # a single output is the probability of class 1
        names = mixer.facts.class_names or tuple(map(str, numbers))
        if class_names is not None:
            names = checked_class_names(class_names)
        if len(names) != classes:
            raise ValueError(f"{len(names)} class names were given for a model of {classes} classes.")
        crop = check("evaluation_crop", evaluation_crop or crop_of(model), EvaluationCrop)
        facts = dataclasses.replace(mixer.facts, class_names=names, evaluation_crop=crop, pixel_range=PIXELS)
        ready = completed(in_precision(model, precision), activation)
        output: Output = "probabilities" if classes else "features"
        shape, runtime = tuple(model.input_shape[1:]), f"Keras on {keras.backend.backend()}"
        return cls(runtime, facts, shape, output, activation, {"image": ready.predict_on_batch}, ready)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class, in order; empty for a model without a head."""
        return self.facts.class_names or ()

    def as_json(self) -> str:
        """The description of the model in every export."""
        return json.dumps(dataclasses.asdict(self.facts) | {name: getattr(self, name) for name in INTERFACE}, indent=2)

    @classmethod
    def from_json(cls, text, runtime, inputs) -> "Predictor":
        """The predictor of an export, from its description; ValueError, KeyError or TypeError if that is damaged."""
        content = json.loads(text)
        return cls(runtime=runtime, facts=content, inputs=inputs, **{name: content[name] for name in INTERFACE})

    def for_classes(self, purpose) -> "Predictor":
        """The same predictor; ValueError if the model has no classes for the purpose (such as "to predict")."""
        if self.output == "features":
            raise ValueError(f"A model without a head has no classes {purpose}. Build it with include_top=True.")
        return self

    def probabilities(self, images) -> np.ndarray:
        """`(B, H, W, channels) in [0, 255] -> (B, classes) float32`, of images of the model's size.

        Warns if the pixels cannot be in [0, 255].

        Raises:
            ValueError: the images have another shape, or the model has no head.
        """
        images, shape = np.asarray(images), self.input_shape
        if images.shape[1:] != shape:  # TFLite would resize its input, and might answer
            raise ValueError(f"Expected images (B, {', '.join(map(str, shape))}), got {images.shape}.")
        warn_of_range(images)
        return np.asarray(self.for_classes("to predict").inputs["image"](images.astype(np.float32)))

    predict_on_batch = probabilities  # as a Keras model has it, so that `keras_mixer.evaluate` takes a predictor too

    def predict(self, image, top_k=5) -> Prediction:
        """The most probable classes of one image; `preprocess_image` names the forms it may have, and the errors.

        Example:
            >>> keras_mixer.load("runs/digits").predict("seven.png", top_k=1)  # doctest: +SKIP
            Prediction(image='seven.png', labels=('7',), probabilities=(0.8576,))
        """
        (probabilities,) = self.probabilities(preprocess_image(image, self)[None])
        best = np.argsort(-probabilities, kind="stable")[: check("top_k", top_k, Count)]
        name = str(image) if isinstance(image, str | os.PathLike) else ""
        labels = tuple(self.class_names[i] for i in best)
        return Prediction(name, labels, tuple(float(probabilities[i]) for i in best))


def _activation(mixer, given) -> Any:
    """What makes probabilities of logits, as `given` or implied, or has made them; None for features."""
    found = activation_of(mixer.model)
    features = bool(mixer.after) and all(isinstance(layer, POOLING) for layer in mixer.after)
    if not features and found not in ("linear", *ACTIVATIONS):
        raise ValueError(
            f"Model {mixer.model.name!r} ends in {found}, so the meaning of its outputs is unknown. Expected "
            "softmax, sigmoid, logits (a Dense layer without activation) or features (include_top=False)."
        )
    fitting = ACTIVATIONS if found == "linear" else (found,)
    if given not in (None, *fitting):
        raise ValueError(f"classifier_activation={given!r} does not fit a model that ends in {found}.")
    if found == "linear":
        return given or implied_activation(mixer.model)
    return None if features else found


def in_precision(model, precision) -> keras.Model:
    """The model with its body, weights too, in a precision and all other layers in float32; itself if it is so."""
    check("precision", precision, Precision)
    mixer = Anatomy(model)
    layers = [layer for layer in mixer.layers if isinstance(layer, keras.layers.Layer)]
    if all(layer.dtype_policy.name == (precision if layer in mixer.body else "float32") for layer in layers):
        return model
    new = rebuild(model, precision=precision)
    new.set_weights(model.get_weights())
    return new


def completed(model, activation=None) -> keras.Model:
    """The model for pixels in [0, 255], with an activation after logits; itself if nothing is missing.

    All layers are shared.
    """
    mixer = Anatomy(model)
    black, white = pixels = mixer.input_range()
    activation = activation if activation_of(model) == "linear" else None
    if pixels == PIXELS and activation is None:
        return model
    image = x = keras.Input(model.input_shape[1:], dtype="float32", name="image")
    if pixels != PIXELS:
        x = keras.layers.Rescaling((white - black) / 255, black, dtype="float32", name="preprocessing")(x)
    x = mixer.apply(x)[-1]
    if activation is not None:
        x = keras.layers.Activation(activation, dtype="float32", name="probabilities")(x)
    return model_like(model, image, x)


def crop_of(model, unknown="resmall-crop") -> str:
    """The evaluation crop of a Mixer; if that is unknown, the one of the paper's Table 3, or another."""
    return Anatomy(model).facts.evaluation_crop or unknown


def preprocess_image(image, model) -> np.ndarray:
    """`(H, W, 3) uint8`: an image as a model is evaluated on it: upright, resized and cropped to the model's size.

    Args:
        image: path or bytes of a file that Pillow can read, or pixels `(h, w, 3)` uint8, also an RGB image of Pillow.
        model: a Mixer, or what `keras_mixer.load` returns.

    Returns:
        The pixels, for `probabilities` or a batch of `model.predict`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it cannot be decoded, or has another form.

    Example:
        >>> keras_mixer.preprocess_image(np.zeros((480, 640, 3), np.uint8), keras_mixer.MixerS32()).shape
        (224, 224, 3)
    """
    size = model.input_shape[-3:-1]
    crop = model.facts.evaluation_crop if isinstance(model, Predictor) else crop_of(model)
    return np.asarray(read_image(image, lambda example: evaluation_crop(image_of(example), size, crop)))


def read_image(image, prepare):
    """What `prepare` makes of the example of an image, given and refused as by `preprocess_image`."""
    if not isinstance(image, bytes | str | os.PathLike):
        pixels = np.asarray(ImageOps.exif_transpose(image) if isinstance(image, Image.Image) else image)
        if pixels.ndim != 3 or pixels.shape[-1] != 3 or pixels.dtype != np.uint8 or not pixels.size:
            found = f"got {pixels.shape} {pixels.dtype}. Batches of the model's size go to probabilities()."
            raise ValueError(f"Expected the pixels of an image (h, w, 3) uint8, {found}")
        return prepare({"image": tf.constant(pixels)})
    name = f"These {len(image):,} bytes cannot be read as an image" if isinstance(image, bytes) else os.fspath(image)
    if not isinstance(image, bytes) and not os.path.isfile(image):
        raise FileNotFoundError(f"There is no image file {image}.")
    try:
        with io.BytesIO(image) if isinstance(image, bytes) else open(image, "rb") as file:
            orientation = read_orientation(file)  # before all of a large file is read
            file.seek(0)
            return prepare({"image": tf.constant(file.read()), "orientation": orientation})
    except Exception as error:  # TensorFlow and Pillow have many types
        raise ValueError(f"{name}: {reason_of(error)}") from error


def load_model(path) -> keras.Model:
    """The Keras model of a run directory or `.keras` file as saved, also at gs://... or hf://owner/name."""
    with local_copy(downloads.local(path)) as local:
        try:
            return load_keras(model_file(local), compile=True)
        except ValueError:  # of the file, or of an optimizer, loss or metric of the user's own
            model = load_keras(model_file(local))
            if activation_of(model) == "linear":
                raise  # only the loss tells whether softmax or sigmoid makes probabilities of logits
            return model


def require_tensorflow():
    """Raises ValueError on another Keras backend than TensorFlow, which writes all exports."""
    if (backend := keras.backend.backend()) != "tensorflow":
        raise ValueError(f"Keras on {backend} writes no exports. Export the saved model with KERAS_BACKEND=tensorflow.")

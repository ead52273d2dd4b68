"""The input and output of a model: the one definition of both for prediction, evaluation and export."""

import dataclasses
import json
from typing import Any, Literal

import keras
import numpy as np

from keras_mixer.anatomy import PIXELS, Anatomy, anatomy, copy_weights, rebuild
from keras_mixer.imagenet_classes import checked_class_names
from keras_mixer.mixer_model import MixerModel
from keras_mixer.variants import SMALL_VARIANTS, VARIANTS, as_pair

SAVED_MODEL_DESCRIPTION = "assets.extra/keras_mixer.json"  # TensorFlow Serving ignores assets.extra
ACTIVATIONS = ("softmax", "sigmoid")  # from logits to probabilities
BINARY_LOSSES = ("binary_crossentropy", "binary_focal_crossentropy", "sigmoid_cross_entropy")
POOLING = (keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D, keras.layers.Reshape)
OutputKind = Literal["probabilities", "logits", "features"]


@dataclasses.dataclass(frozen=True)
class Description:
    """Everything a client of a model must know.

    Attributes:
        input_shape: `(height, width, channels)` of its images.
        pixel_range: values of a black and a white pixel at its input.
        output: "probabilities" or "logits" of the classes, or "features" for a model without a head.
        activation: "softmax" or "sigmoid", which turns logits into probabilities; None for features.
        class_names, evaluation_crop, trained_on: as in `ModelFacts`; no names for features.
    """

    input_shape: tuple[int, int, int]
    pixel_range: tuple[float, float]
    output: OutputKind
    activation: str | None
    class_names: tuple[str, ...]
    evaluation_crop: str
    trained_on: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The content of the JSON file in every export."""
        lists = {name: list(getattr(self, name)) for name in ("input_shape", "pixel_range", "class_names")}
        return dataclasses.asdict(self) | lists

    @classmethod
    def from_json(cls, text, path) -> "Description":
        """Reads the JSON file of the export at `path`; ValueError if it is damaged."""
        try:
            content = json.loads(text)
            made = cls(**{field.name: content[field.name] for field in dataclasses.fields(cls)})
            height, width, channels = made.input_shape
            sound = (
                all(type(side) is int and side > 0 for side in (height, width, channels))
                and content["pixel_range"] == list(PIXELS)
                and made.output in ("probabilities", "features")
                and made.activation in (None, *ACTIVATIONS)
                and isinstance(made.class_names, list)
                and all(isinstance(name, str) for name in made.class_names)
                and isinstance(made.evaluation_crop, str)
                and isinstance(made.trained_on, str | None)
            )
            if sound:
                shape, names = (height, width, channels), tuple(made.class_names)
                return dataclasses.replace(made, input_shape=shape, pixel_range=PIXELS, class_names=names)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path}: the description of the model is damaged ({error}).") from error
        raise ValueError(f"{path}: the description of the model is damaged ({content!r:.200}).")


def describe(model, class_names=None, evaluation_crop=None, classifier_activation=None) -> Description:
    """The description of a Mixer, with layers added to it or not.

    Args:
        model: with or without preprocessing, head and final activation.
        class_names: one per class; None for the model's own, or the class numbers.
        evaluation_crop: None for the model's own, or "resmall-crop".
        classifier_activation: for a model that outputs logits, "softmax" or "sigmoid"; None for the one implied by the
            compiled loss, else "softmax".

    Raises:
        ValueError: the model is not a Mixer, its output is not one of the three kinds, or an argument is invalid.
    """
    parts = anatomy(model)
    output, end = _output_of(parts)
    if classifier_activation not in (None, *ACTIVATIONS):
        raise ValueError(f"classifier_activation must be None, softmax or sigmoid, got {classifier_activation!r}.")
    activation = classifier_activation or implied_activation(model) if output == "logits" else end
    if classifier_activation not in (None, activation):
        ends = f"ends in {activation}" if activation else "has no head"
        raise ValueError(f"classifier_activation={classifier_activation!r} does not fit a model that {ends}.")
    names: tuple[str, ...] = ()
    if output != "features":
        classes = model.output_shape[-1]
        own = parts.facts.class_names or tuple(map(str, range(classes)))
        names = checked_class_names(own if class_names is None else class_names)
        if len(names) != classes:
            raise ValueError(f"{len(names)} class names were given for a model of {classes} classes.")
    elif class_names:
        raise ValueError(f"{len(class_names)} class names were given for a model without a head, which has no classes.")
    return Description(
        input_shape=tuple(model.input_shape[1:]),
        pixel_range=parts.pixel_range,
        output=output,
        activation=activation,
        class_names=names,
        evaluation_crop=evaluation_crop or evaluation_crop_of(model),
        trained_on=parts.facts.trained_on if names else None,
    )


def evaluation_crop_of(model) -> str:
    """The evaluation crop of a Mixer, or that of the paper's Table 3 if it is unknown."""
    return anatomy(model).facts.evaluation_crop or "resmall-crop"


def architecture_of(model) -> str:
    """The size of a Mixer in words, such as "Mixer B/16: 12 blocks, 768 channels, patches of 16 x 16 px"."""
    sizes = anatomy(model).variant()
    known = [name for name, variant in (VARIANTS | SMALL_VARIANTS).items() if variant == sizes]
    height, width = as_pair(sizes.patch_size)
    return (
        f"{' '.join(['Mixer', *known])}: {sizes.num_blocks} blocks, {sizes.hidden_dim} channels, "
        f"patches of {height} x {width} px"
    )


def _output_of(parts: Anatomy) -> tuple[OutputKind, str | None]:
    """The kind of output of a Mixer, and its last activation; ValueError if what was added leaves it unknown."""
    learned = any(getattr(layer, "weights", None) for layer in parts.after)
    if parts.after and not learned and isinstance(parts.after[-1], POOLING):
        return "features", None
    last = parts.layers[-1]
    function = getattr(last, "activation", None)
    activation = getattr(function, "__name__", type(last).__name__.lower())  # keras.ops.softmax is a class Softmax
    if activation in ACTIVATIONS:
        return "probabilities", activation
    if activation == "linear":
        return "logits", activation
    raise ValueError(
        f"Model {parts.model.name!r} ends in {last.name!r} ({activation}), so the meaning of its outputs is unknown. "
        "Expected softmax, sigmoid, logits (a Dense layer without activation) or features (include_top=False)."
    )


def implied_activation(model):
    """The activation that the loss of a compiled model applies to its logits."""
    losses = keras.tree.flatten(getattr(model, "loss", None))
    names = {getattr(loss, "name", None) or getattr(loss, "__name__", None) or str(loss) for loss in losses}
    return "sigmoid" if names & set(BINARY_LOSSES) else "softmax"


def in_precision(model, precision) -> keras.Model:
    """The model with its body in a precision and all other layers in float32; itself if it is so already."""
    parts = anatomy(model)
    layers = [layer for layer in parts.layers if isinstance(layer, keras.layers.Layer)]
    wanted = {id(layer): precision if layer in parts.body else "float32" for layer in layers}
    if parts.quantized is not None:
        if precision == "float32":
            return model
        raise ValueError(f"The layer {parts.quantized} is quantized, so the model cannot compute in {precision}.")
    if all(layer.dtype_policy.name == wanted[id(layer)] for layer in layers):
        return model
    new = rebuild(model, precision=precision)
    copy_weights(parts.layers, anatomy(new).layers)
    return new


def completed(model, activation=None) -> keras.Model:
    """The model for pixels in [0, 255], with an activation after its logits; itself if nothing is missing.

    Models inside the model are opened. All layers are shared.
    """
    parts = anatomy(model)
    black, white = parts.pixel_range
    missing = [keras.layers.Rescaling((white - black) / 255, black, dtype="float32", name="preprocessing")]
    before = missing if parts.pixel_range != PIXELS else []
    after = [keras.layers.Activation(activation, dtype="float32", name="probabilities")] if activation else []
    if not before and not after and not parts.nested:
        return model
    image = x = keras.Input(model.input_shape[1:], dtype="float32", name="image")
    for layer in before:
        x = layer(x)
    for layer in parts.layers:
        x = parts.call(layer, x)
    for layer in after:
        x = layer(x)
    kind = MixerModel if isinstance(model, MixerModel) else keras.Model
    return kind(image, x, name=model.name)


def probabilities_of(logits, activation) -> np.ndarray:
    """`(B, classes) -> (B, classes) float64`: applies the activation in NumPy, independently of any model."""
    logits = np.asarray(logits, np.float64)
    if activation == "sigmoid":
        return np.exp(-np.logaddexp(0, -logits))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)

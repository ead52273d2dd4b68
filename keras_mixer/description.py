"""The input and output of a model: the one definition of both for prediction, evaluation and export."""

import dataclasses
import json
from typing import Any, Literal

import keras
import numpy as np

from keras_mixer.mixer_model import blocks_of
from keras_mixer.models import arguments_of, class_names_of, evaluation_crop_of, rebuild
from keras_mixer.variants import SMALL_VARIANTS, VARIANTS, Variant, as_pair

PIXELS = (0, 255)
SAVED_MODEL_DESCRIPTION = "assets.extra/keras_mixer.json"  # TensorFlow Serving ignores assets.extra
ACTIVATIONS = ("softmax", "sigmoid")  # from logits to probabilities
BINARY_LOSSES = ("binary_crossentropy", "binary_focal_crossentropy", "sigmoid_cross_entropy")
HEADLESS = ("pool", "grid")  # the last layer of a model without a head


@dataclasses.dataclass(frozen=True)
class Description:
    """Everything a client of a model must know.

    Attributes:
        input_shape: `(height, width, channels)` of its images.
        pixel_range: values of a black and a white pixel at its input.
        output: "probabilities" or "logits" of the classes, or "features" for a model without a head.
        activation: "softmax" or "sigmoid", which turns logits into probabilities; None for features.
        class_names: one per class; empty for features.
        evaluation_crop: how an image of any size is cropped and resized to the input size.
        trained_on: the data that the classes come from, in a few words; None if unknown.
    """

    input_shape: tuple[int, int, int]
    pixel_range: tuple[float, float]
    output: Literal["probabilities", "logits", "features"]
    activation: str | None
    class_names: tuple[str, ...]
    evaluation_crop: str
    trained_on: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The content of the JSON file in every export."""
        return {
            "class_names": list(self.class_names),
            "evaluation_crop": self.evaluation_crop,
            "input_shape": list(self.input_shape),
            "pixel_range": list(self.pixel_range),
            "output": self.output,
            "activation": self.activation,
            "trained_on": self.trained_on,
        }

    @classmethod
    def from_json(cls, text, path) -> "Description":
        """Reads the JSON file of the export at `path`.

        Raises:
            ValueError: it is damaged.
        """
        try:
            content = json.loads(text)
            height, width, channels = content["input_shape"]
            # Version 0.1.0 wrote none of them.
            output, activation = content.get("output", "probabilities"), content.get("activation")
            trained_on = content.get("trained_on")
            known = output in ("probabilities", "features") and activation in (None, *ACTIVATIONS)
            known = known and content.get("pixel_range") == list(PIXELS)
            sides = all(type(side) is int and side > 0 for side in (height, width, channels))
            names = all(isinstance(name, str) for name in content["class_names"])
            known = known and isinstance(trained_on, str | None)
            if known and sides and names and isinstance(content["evaluation_crop"], str):
                shape, labels = (height, width, channels), tuple(content["class_names"])
                return cls(shape, PIXELS, output, activation, labels, content["evaluation_crop"], trained_on)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"{path}: the description of the model is damaged ({error}).") from error
        raise ValueError(f"{path}: the description of the model is damaged ({content!r:.200}).")


def describe(model, class_names=None, evaluation_crop=None, classifier_activation=None) -> Description:
    """The description of a Mixer.

    Args:
        model: a Mixer of this package, with or without preprocessing, head and final activation.
        class_names: one per class; None for the model's own, or the class numbers.
        evaluation_crop: None for the model's own, or "resmall-crop".
        classifier_activation: for a model that outputs logits, "softmax" or "sigmoid"; None for the one implied by the
            compiled loss, else "softmax".

    Raises:
        ValueError: the model is not a Mixer, its output is not one of the three kinds, or an argument is invalid.
    """
    layers = {layer.name: layer for layer in model.layers}
    arguments = arguments_of(model)
    output = _output_of(model, layers, arguments)
    if classifier_activation not in (None, *ACTIVATIONS):
        raise ValueError(f"classifier_activation must be None, softmax or sigmoid, got {classifier_activation!r}.")
    activation = {"probabilities": arguments["classifier_activation"], "features": None}.get(
        output, classifier_activation or implied_activation(model)
    )
    if classifier_activation not in (None, activation):
        end = f"ends in {activation}" if activation else "has no head"
        raise ValueError(f"classifier_activation={classifier_activation!r} does not fit a model that {end}.")
    names: tuple[str, ...] = ()
    if output != "features":
        names, classes = tuple(class_names or class_names_of(model)), model.output_shape[-1]
        if len(names) != classes:
            raise ValueError(f"{len(names)} class names were given for a model of {classes} classes.")
    elif class_names:
        raise ValueError(f"{len(class_names)} class names were given for a model without a head, which has no classes.")
    return Description(
        input_shape=tuple(model.input_shape[1:]),
        pixel_range=PIXELS if "preprocessing" in layers else getattr(model, "pixel_range", (-1.0, 1.0)),
        output=output,
        activation=activation,
        class_names=names,
        evaluation_crop=evaluation_crop or evaluation_crop_of(model),
        trained_on=getattr(model, "trained_on", None) if names else None,
    )


def architecture_of(model) -> str:
    """The size of a Mixer in words, such as "Mixer B/16: 12 blocks, 768 channels, patches of 16 x 16 px"."""
    arguments = arguments_of(model)
    sizes = Variant(**{field.name: arguments[field.name] for field in dataclasses.fields(Variant)})
    patch = as_pair(sizes.patch_size)
    known = [
        name
        for name, variant in (VARIANTS | SMALL_VARIANTS).items()
        if dataclasses.replace(variant, patch_size=as_pair(variant.patch_size))
        == dataclasses.replace(sizes, patch_size=patch)
    ]
    return (
        f"{' '.join(['Mixer', *known])}: {sizes.num_blocks} blocks, {sizes.hidden_dim} channels, "
        f"patches of {patch[0]} x {patch[1]} px"
    )


def _output_of(model, layers, arguments):
    """The kind of output of a Mixer; ValueError if other layers were built on top of it."""
    last = next((name for name, layer in layers.items() if layer.output is model.outputs[0]), None)
    activation = arguments["classifier_activation"]
    if len(model.outputs) == 1:
        if last in HEADLESS:
            return "features"
        if last == "head" or (last == "probabilities" and activation == "linear"):
            return "logits"
        if last == "probabilities" and activation in ACTIVATIONS:
            return "probabilities"
    end = f"ends in {activation!r}" if last == "probabilities" else "does not have the outputs of a Mixer"
    raise ValueError(
        f"Model {model.name!r} {end}, so the meaning of its outputs is unknown. Expected a Mixer that ends in softmax, "
        "sigmoid, logits (classifier_activation=None) or features (include_top=False)."
    )


def implied_activation(model):
    """The activation that the loss of a compiled model applies to its logits."""
    losses = keras.tree.flatten(getattr(model, "loss", None))
    names = {getattr(loss, "name", None) or getattr(loss, "__name__", None) or str(loss) for loss in losses}
    return "sigmoid" if names & set(BINARY_LOSSES) else "softmax"


def with_arguments(model, *, precision=None, **changes):
    """A Mixer with the same weights and some arguments of `Mixer` changed; `model` itself if nothing changes.

    Args:
        model: a Mixer of this package.
        precision: dtype policy; None keeps the model's own.
        **changes: arguments of `Mixer` that do not affect the weights, such as `include_preprocessing`.
    """
    have = arguments_of(model)
    kept = blocks_of(model)[0].dtype_policy
    same_precision = precision is None or {layer.dtype_policy.name for layer in model.layers} == {precision}
    if same_precision and all(have[name] == value for name, value in changes.items()):
        return model
    new = rebuild(model, precision=precision or kept, **changes)
    new.set_weights(model.get_weights())
    return new


def probabilities_of(logits, activation) -> np.ndarray:
    """`(B, classes) -> (B, classes) float64`: applies the activation in NumPy, independently of any model."""
    logits = np.asarray(logits, np.float64)
    if activation == "sigmoid":
        return np.exp(-np.logaddexp(0, -logits))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)

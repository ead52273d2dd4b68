"""What a model consists of, read from its graph: whether it is a Mixer, and which layers were added to it."""

import itertools
import re

import keras
import numpy as np

from keras_mixer.layers import MixerBlock, PatchEmbed
from keras_mixer.mixer_model import ClassifierHead, MixerModel, ModelFacts, checked_class_names
from keras_mixer.primitives import LayerNorm
from keras_mixer.variants import Variant, token_grid

PIXELS = (0, 255)
ACTIVATIONS = ("softmax", "sigmoid")  # from logits to probabilities
NUMERIC_LOSS = re.compile("mse|mae|mape|msle|huber.*|log_?cosh|mean_?(squared|absolute).*", re.IGNORECASE)
BINARY_LOSS = re.compile("bce|binary_?(focal_?)?crossentropy|sigmoid_cross_entropy", re.IGNORECASE)
WEIGHTS = ("gamma", "beta", "kernel", "bias")  # of LayerNorms, and of all other layers of a Mixer
POOLING = (keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D, keras.layers.Reshape)
OF_MIXER = (*POOLING, ClassifierHead, keras.layers.Activation)  # what may follow the body


class Anatomy:
    """The layers of a Mixer from its image to its output, one after another, each used once; ValueError for others.

    Models inside the model are opened.

    Attributes:
        model: the model itself.
        layers: all layers, of which `before` are those between image and stem (none, the scaling of the pixels, or
            what the user added), `body` those of a Mixer (`stem`, `tokens`, `blocks`, `norm`), and `after` those after
            the last LayerNorm (pooling or grid, `head`, activation, or what the user added).
        head: the layer of the logits; None in a model without a head, or with one of the user's.
        grid: rows and columns `(g_h, g_w)` of the tokens.
    """

    def __init__(self, model):
        self.model, self._nodes = model, _chain(model)
        self.layers = layers = tuple(node.operation for node in self._nodes)
        start = next((i for i, layer in enumerate(layers) if isinstance(layer, PatchEmbed)), len(layers))
        blocks = [layer for layer in layers if isinstance(layer, MixerBlock)]
        kinds = (PatchEmbed, keras.layers.Reshape, *[MixerBlock] * len(blocks), LayerNorm)
        end = start + len(kinds)
        for layer, kind in itertools.zip_longest(layers[start:end], kinds):
            if not isinstance(layer, kind):
                found = getattr(layer, "name", "nothing")
                raise _not_a_mixer(model, f"it has {found!r} in the place of {kind.__name__}")
        if len({(block.tokens_mlp_dim, block.channels_mlp_dim, block.exact_gelu) for block in blocks}) != 1:
            raise _not_a_mixer(model, "its blocks differ, or there are none")
        if len(set(layers)) < len(layers):
            raise _not_a_mixer(model, "a layer is used more than once")
        self.before, self.body, self.after = layers[:start], layers[start:end], layers[end:]
        self.stem, self.tokens, self.blocks, self.norm = *self.body[:2], self.body[2:-1], self.body[-1]
        self.grid = self._nodes[start].output_tensors[0].shape[1:3]
        self.head = next((layer for layer in self.after if isinstance(layer, ClassifierHead)), None)
        weights = (weight for layer in (*self.body, self.head) if layer for weight in layer.weights)
        if other := next((weight.path for weight in weights if weight.name not in WEIGHTS), None):
            raise _not_a_mixer(model, f"{other!r} comes from quantization or LoRA (`save_weights` merges LoRA)")

    def apply(self, image=None, layers=None) -> list[keras.KerasTensor]:
        """An image, by default one like the model's, and the outputs of the layers, or of others in their places."""
        if image is None:
            image = keras.Input(self.model.input_shape[1:], dtype=self.model.inputs[0].dtype, name="image")
        tensors = [image]
        for node, layer in zip(self._nodes, layers or self.layers, strict=False):
            arguments, options = node.arguments.fill_in({id(node.input_tensors[0]): tensors[-1]})
            tensors.append(layer(*arguments, **options))
        return tensors

    def pre_logits(self, tensors) -> keras.KerasTensor:
        """`(B, C)`: the mean over tokens after the last LayerNorm, in float32 or better; `tensors` are from `apply`."""
        exact = keras.backend.result_type(self.norm.variable_dtype, "float32")
        mean = keras.layers.GlobalAveragePooling1D("channels_last", dtype=exact, name="mean_over_tokens")
        return mean(tensors[-1 - len(self.after)])

    def input_range(self) -> tuple[float, float]:
        """Values of a black and a white pixel at the input; ValueError if added layers leave them unknown."""
        at_stem = self.stem.pixel_range
        if not self.before:
            return at_stem
        image, *_, scaled = self.apply(layers=self.before)
        before = keras.Model(image, scaled)
        for values in (PIXELS, at_stem):
            images = np.ones((2, *image.shape[1:]), np.float32) * np.reshape(values, (2, 1, 1, 1))
            seen = keras.ops.convert_to_numpy(before(images, training=False))
            if np.allclose(seen, np.reshape(at_stem, (2, 1, 1, 1)), atol=1e-3):
                return values
        names = ", ".join(repr(layer.name) for layer in self.before)
        raise ValueError(
            f"Model {self.model.name!r} changes pixels before the stem ({names}), and maps neither [0, 255] nor "
            f"{list(at_stem)} to the {list(at_stem)} that the stem expects. Evaluate or export it without these layers."
        )

    @property
    def facts(self) -> ModelFacts:
        """What the layers know; class names of an added head are those of `model.class_names`, if it has them."""
        names, trained_on, crop = (getattr(self.head or self.model, name, None) for name in ClassifierHead.facts)
        if self.head is None and names is not None:
            names = checked_class_names(names)
        return ModelFacts(names, trained_on, crop, self.stem.pixel_range, self.blocks[0].exact_gelu)

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class, in order, or its number if names are unknown; empty for features."""
        classes = 0 if self.kind == "features" else self.model.output_shape[-1]
        numbers = range(classes) if classes != 1 else [1]  # a single output is the probability of class 1
        return (self.facts.class_names if classes else None) or tuple(map(str, numbers))

    @property
    def evaluation_crop(self) -> str:
        """The evaluation crop, or that of the paper's Table 3 if it is unknown."""
        return self.facts.evaluation_crop or "resmall-crop"

    def variant(self) -> Variant:
        """The sizes of the model."""
        height, width = self.stem.patch_size
        patch, block = height if height == width else (height, width), self.blocks[0]
        return Variant(patch, len(self.blocks), self.stem.hidden_dim, block.tokens_mlp_dim, block.channels_mlp_dim)

    @property
    def kind(self) -> str:
        """What the model gives: "probabilities", "logits" or "features" (pooled or a grid); ValueError for others."""
        name = activation_of(self.layers[-1])
        if self.after and all(isinstance(layer, POOLING) for layer in self.after):
            return "features"
        if name not in (*ACTIVATIONS, "linear"):
            raise ValueError(
                f"Model {self.model.name!r} ends in {name}, so the meaning of its outputs is unknown. Expected "
                "softmax, sigmoid, logits (a Dense layer without activation) or features (include_top=False)."
            )
        return "logits" if name == "linear" else "probabilities"

    def activation(self, given=None) -> str | None:
        """What makes probabilities of logits, as `given` or implied, or has made them; None for features."""
        kind, name = self.kind, activation_of(self.layers[-1])
        if given not in {"features": (None,), "probabilities": (None, name), "logits": (None, *ACTIVATIONS)}[kind]:
            raise ValueError(f"classifier_activation={given!r} does not fit a model that ends in {name}.")
        if kind == "logits":
            return given or implied_activation(self.model)
        return name if kind == "probabilities" else None


def plain_mixer(model, purpose) -> Anatomy:
    """The layers of a model that `keras_mixer.Mixer` could have built; ValueError with the purpose for others."""
    parts = Anatomy(model)
    if added := [layer.name for layer in parts.after if not isinstance(layer, OF_MIXER)]:
        inside = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
        use = f"model.get_layer({inside[0]!r})" if inside else "the Mixer to which they were added"
        found = f"model {model.name!r} has other layers too: {', '.join(map(repr, added))}"
        raise ValueError(f"{purpose} takes a Mixer as keras_mixer.Mixer builds it, but {found}. Use {use}.")
    parts.input_range()  # raises unless the stem sees the pixels that it expects
    return parts


def rebuild(model, *, precision=None, input_shape=None, **options):
    """A copy of a Mixer without its weights; `options` are arguments of its blocks, `precision` is that of its body."""
    parts = Anatomy(model)
    image = keras.Input(input_shape or model.input_shape[1:], dtype=model.inputs[0].dtype, name="image")
    grid, channels = token_grid(image.shape[1:3], parts.stem.patch_size), parts.stem.hidden_dim
    changes = dict.fromkeys(parts.blocks, options) | {parts.tokens: {"target_shape": (grid[0] * grid[1], channels)}}
    if parts.after and isinstance(parts.after[0], keras.layers.Reshape):
        changes[parts.after[0]] = {"target_shape": (*grid, channels)}
    layers = []
    for layer in parts.layers:
        config = layer.get_config() | changes.get(layer, {})
        if precision is not None and isinstance(layer, keras.layers.Layer):
            config["dtype"] = precision if layer in parts.body else "float32"
        layers.append(type(layer).from_config(config))
    return model_like(model, image, parts.apply(image, layers)[-1], trainable=model.trainable)


def model_like(model, image, outputs, **options):
    """A model of a graph, with the name of another, and a `MixerModel` if that is one."""
    return (MixerModel if isinstance(model, MixerModel) else keras.Model)(image, outputs, name=model.name, **options)


def activation_of(part) -> str:
    """The name of the activation in which a model or a layer ends, or else of its kind: `keras.ops.softmax` is one."""
    while isinstance(part, keras.Model) and getattr(part, "outputs", None):
        part = part.outputs[0]._keras_history.operation
    function = getattr(part, "activation", None)
    return function if isinstance(function, str) else getattr(function, "__name__", type(part).__name__.lower())


def implied_activation(model) -> str:
    """The activation that the loss of a compiled model applies to its logits; ValueError if they are none."""
    functions = [getattr(loss, "fn", loss) for loss in keras.tree.flatten(getattr(model, "loss", None))]
    names = [getattr(function, "__name__", str(function)) for function in functions]  # a loss may have any `name`
    if numeric := next(filter(NUMERIC_LOSS.fullmatch, names), None):
        raise ValueError(f"A model compiled with {numeric} gives numbers, not classes. Use its own methods.")
    single = tuple(model.outputs[0].shape[1:]) == (1,)
    return "sigmoid" if single or any(map(BINARY_LOSS.fullmatch, names)) else "softmax"


def _chain(model) -> list:
    """Keras's nodes from the image to the output of a functional model, with the models inside it opened."""
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs or len(inputs) != 1 or len(outputs) != 1:
        raise _not_a_mixer(model, "it is not a functional model with one input and one output")
    chain: list = []
    tensor = outputs[0]
    while tensor is not inputs[0]:
        layer, index, _ = tensor._keras_history
        node = layer._inbound_nodes[index]
        if len(node.input_tensors) != 1:
            raise _not_a_mixer(model, f"{layer.name!r} has {len(node.input_tensors)} inputs")
        functional = isinstance(layer, keras.Model) and getattr(layer, "inputs", None)
        chain = [*(_chain(layer) if functional else [node]), *chain]
        tensor = node.input_tensors[0]
    return chain


def _not_a_mixer(model, reason):
    name, expected = getattr(model, "name", model), "PatchEmbed, Reshape, MixerBlocks and LayerNorm in a row"
    return ValueError(f"Model {name!r} is not a Mixer of this package: {reason}. Expected {expected}.")

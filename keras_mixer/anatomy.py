"""The layers of a Mixer, read from the graph of a model that may have others around them."""

import keras
import numpy as np

from keras_mixer.layers import MixerBlock, PatchEmbed
from keras_mixer.mixer_model import ClassifierHead, ModelFacts, checked_class_names
from keras_mixer.primitives import LayerNorm
from keras_mixer.variants import Variant

PIXELS = (0, 255)
POOLING = (keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D, keras.layers.Reshape)
WEIGHTS = ("gamma", "beta", "kernel", "bias")  # of LayerNorms, and of all other layers of a Mixer


class Anatomy:
    """The layers of a Mixer from its image to its output, one after another, each used once; ValueError for others.

    `layers` are those `before` the stem (such as the scaling of pixels), the `body` (`stem`, `tokens`, `blocks`,
    `norm`), and those `after` it (such as pooling, `head`, activation), with those of models inside the model. `head`
    is None in a model without a head, or with one of the user's; `grid` has the rows and columns of tokens.
    """

    def __init__(self, model):
        self.model, self._nodes = model, _chain(model)
        self.layers = layers = tuple(node.operation for node in self._nodes)
        start = next((i for i, layer in enumerate(layers) if isinstance(layer, PatchEmbed)), len(layers))
        blocks = [layer for layer in layers if isinstance(layer, MixerBlock)]
        kinds = (PatchEmbed, keras.layers.Reshape, *[MixerBlock] * len(blocks), LayerNorm)
        end = start + len(kinds)
        self.before, self.body, self.after = layers[:start], layers[start:end], layers[end:]
        if len(self.body) < len(kinds) or not all(map(isinstance, self.body, kinds)):
            found = ", ".join(repr(layer.name) for layer in self.body)
            raise _not_a_mixer(model, f"it has {found or 'no PatchEmbed'}")
        if len({(block.tokens_mlp_dim, block.channels_mlp_dim, block.exact_gelu) for block in blocks}) != 1:
            raise _not_a_mixer(model, "its blocks differ, or there are none")
        if len(set(layers)) < len(layers):
            raise _not_a_mixer(model, "a layer is used more than once")
        self.stem, self.tokens, *self.blocks, self.norm = self.body
        self.grid = self._nodes[start].output_tensors[0].shape[1:3]
        last = next((layer for layer in self.after[::-1] if getattr(layer, "weights", ())), None)
        self.head = last if isinstance(last, ClassifierHead) else None
        weights = (weight for layer in (*self.body, self.head) if layer for weight in layer.weights)
        if other := next((weight.path for weight in weights if weight.name not in WEIGHTS), None):
            raise _not_a_mixer(model, f"{other!r} comes from quantization or LoRA (`save_weights` merges LoRA)")

    def apply(self, image=None, layers=None) -> list[keras.KerasTensor]:
        """An image, by default one like the model's, and the outputs of the layers, or of others in their places."""
        nested = any(isinstance(layer, keras.Model) for layer in self.model.layers)
        if image is None and layers is None and not nested:
            return [self.model.inputs[0], *(node.output_tensors[0] for node in self._nodes)]
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
        image, *tensors = self.apply()
        before = keras.Model(image, tensors[len(self.before) - 1])
        for values in (PIXELS, at_stem):
            images = np.ones((2, *image.shape[1:]), np.float32) * np.reshape(values, (2, 1, 1, 1))
            seen = keras.ops.convert_to_numpy(before(images, training=False))
            if np.allclose(seen, np.reshape(at_stem, (2, 1, 1, 1)), atol=1e-3):
                return values
        names = ", ".join(repr(layer.name) for layer in self.before)
        changed = f"Model {self.model.name!r} changes pixels before the stem ({names}), which expects {list(at_stem)}"
        raise ValueError(f"{changed}. Evaluate or export it without these layers.")

    @property
    def facts(self) -> ModelFacts:
        """What the layers know; class names of an added head are those of `model.class_names`, if it has them."""
        names, trained_on, crop = (getattr(self.head or self.model, name, None) for name in ClassifierHead.facts)
        if self.head is None and names is not None:  # a head has checked its names
            names = checked_class_names(names)
        return ModelFacts(names, trained_on, crop, self.stem.pixel_range, self.blocks[0].exact_gelu)

    def variant(self) -> Variant:
        """The sizes of the model."""
        stem, block = self.stem, self.blocks[0]
        dims = stem.hidden_dim, block.tokens_mlp_dim, block.channels_mlp_dim
        return Variant(stem.patch_size, len(self.blocks), *dims)


def activation_of(part) -> str:
    """The name of the activation in which a model or a layer ends, or else of its kind: `keras.ops.softmax` is one."""
    while isinstance(part, keras.Model) and getattr(part, "outputs", None):
        part = part.outputs[0]._keras_history.operation
    function = getattr(part, "activation", None)
    return function if isinstance(function, str) else getattr(function, "__name__", type(part).__name__.lower())


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

"""What a model consists of, read from its graph: whether it is a Mixer, and which layers were added to it."""

import dataclasses
import functools
import inspect
from typing import Any

import keras
import numpy as np

from keras_mixer.fast_cpu import LayerNorm
from keras_mixer.layers import LAYER_NORM_EPSILON, MixerBlock, PatchEmbed
from keras_mixer.mixer_model import ClassifierHead, ModelFacts
from keras_mixer.variants import Variant

PIXELS = (0, 255)


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """The layers of a model from its image to its output, one after another; models inside the model are opened.

    Attributes:
        model: the model.
        before: layers between image and stem: none, the scaling of the pixels, or what the user added.
        stem, tokens, blocks, norm: the layers of a Mixer, without any others between them.
        after: layers after the last LayerNorm: pooling or grid, head, activation, or what the user added.
        nodes: Keras's node of each layer in the graph; those of a model inside the model belong to that one's graph.
        nested: whether there are models inside the model.
    """

    model: keras.Model
    before: tuple[keras.Operation, ...]
    stem: PatchEmbed
    tokens: keras.layers.Reshape
    blocks: tuple[MixerBlock, ...]
    norm: LayerNorm
    after: tuple[keras.Operation, ...]
    nodes: tuple[Any, ...]
    nested: bool

    @property
    def body(self) -> tuple[keras.layers.Layer, ...]:
        """The layers from the stem to the last LayerNorm."""
        return self.stem, self.tokens, *self.blocks, self.norm

    @property
    def layers(self) -> tuple[keras.Operation, ...]:
        """All layers, in order."""
        return *self.before, *self.body, *self.after

    def output_of(self, layer) -> keras.KerasTensor:
        """The tensor after a layer, in the graph of the model."""
        return self.nodes[self.layers.index(layer)].output_tensors[0]

    def call(self, layer, x, copy=None):
        """A layer of the model, or a copy of it, on another tensor; other arguments are those in the model."""
        given = self.nodes[self.layers.index(layer)].arguments

        def replaced(value):
            return x if isinstance(value, keras.KerasTensor) else value

        arguments, options = keras.tree.map_structure(replaced, (given.args, given.kwargs))
        return (copy or layer)(*arguments, **options)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns `(g_h, g_w)` of the tokens."""
        return self.output_of(self.stem).shape[1:3]

    @property
    def added(self) -> tuple[str, ...]:
        """Names of the layers with which `keras_mixer.Mixer` would not have built the model."""
        before = () if self._scales_pixels() else self.before
        after = () if self._pools_or_classifies() else self.after
        return tuple(layer.name for layer in (*before, *after))

    def _scales_pixels(self):
        black, white = self.stem.pixel_range
        kinds = [type(layer) for layer in self.before]
        scaled = [(layer.scale * 255, layer.offset) for layer in self.before if kinds == [keras.layers.Rescaling]]
        return not self.before or (bool(scaled) and np.allclose(scaled[0], (white - black, black)))

    def _pools_or_classifies(self):
        if len(self.after) == 1 and isinstance(self.after[0], keras.layers.Reshape):
            return True
        kinds = (keras.layers.GlobalAveragePooling1D, keras.layers.Dense, keras.layers.Activation)
        if not 0 < len(self.after) <= len(kinds) or not all(map(isinstance, self.after, kinds)):
            return False
        return all(head.activation is keras.activations.linear and head.use_bias for head in self.after[1:2])

    @functools.cached_property
    def pool(self) -> keras.layers.Layer:
        """`(B, S, C) -> (B, C)` in float32 or better: the mean over tokens, by a layer of the model or a new one."""
        if self.after and isinstance(self.after[0], keras.layers.GlobalAveragePooling1D):
            return self.after[0]
        exact = keras.backend.result_type(self.norm.variable_dtype, "float32")
        return keras.layers.GlobalAveragePooling1D("channels_last", dtype=exact, name="mean_over_tokens")

    @property
    def head(self) -> keras.layers.Dense | None:
        """The layer of the logits; None in a model without a head, or with layers of the user's after the body."""
        return self.after[1] if len(self.after) > 1 and not self.added else None

    @functools.cached_property
    def pixel_range(self) -> tuple[float, float]:
        """Values of a black and a white pixel at the input of the model.

        Raises:
            ValueError: they are unknown, because the user's layers before the stem change pixels in another way.
        """
        if self._scales_pixels():
            return PIXELS if self.before else self.stem.pixel_range
        for black_and_white in (PIXELS, self.stem.pixel_range):
            x = np.stack([np.full(self.model.input_shape[1:], value, np.float32) for value in black_and_white])
            for layer in self.before:
                training = "training" in inspect.signature(layer.call).parameters
                x = self.call(layer, x, functools.partial(layer, training=False) if training else None)
            seen = keras.ops.convert_to_numpy(x).reshape(2, -1)
            if np.allclose(seen, np.array(self.stem.pixel_range)[:, None], atol=1e-3):
                return black_and_white
        names = ", ".join(repr(layer.name) for layer in self.before)
        raise ValueError(
            f"Model {self.model.name!r} changes pixels before the stem ({names}), and maps neither [0, 255] nor "
            f"{list(self.stem.pixel_range)} to the {list(self.stem.pixel_range)} that the stem expects. Leave these "
            "layers out of the model that is evaluated or exported."
        )

    @property
    def facts(self) -> ModelFacts:
        """What the layers know; class names of an added head are those of `model.class_names`, if it has them."""
        heads = [layer for layer in self.after if isinstance(layer, ClassifierHead)]
        names = ("class_names", "trained_on", "evaluation_crop")
        kept = {name: getattr(head, name) for head in heads for name in names}
        own = getattr(self.model, "class_names", None)
        if not heads and own is not None:
            kept["class_names"] = tuple(map(str, own))
        return ModelFacts(**kept, pixel_range=self.stem.pixel_range, exact_gelu=self.blocks[0].exact_gelu)

    @property
    def quantized(self) -> str | None:
        """Path of the first layer of the body or head that Keras has quantized; None if there is none."""
        parts = [part for part in self.layers if isinstance(part, keras.layers.Layer)]
        layers = [layer for part in parts for layer in part._flatten_layers()]
        return next((layer.path for layer in layers if layer.quantization_mode is not None), None)

    def variant(self) -> Variant:
        """The sizes of the model."""
        height, width = self.stem.patch_size
        return Variant(
            height if height == width else (height, width),
            len(self.blocks),
            self.stem.hidden_dim,
            self.blocks[0].tokens_mlp_dim,
            self.blocks[0].channels_mlp_dim,
        )

    def weights(self) -> dict[str, Any]:
        """The weights of the body and the head by the names of this package, whatever the layers are called.

        A kernel with a LoRA update is the sum of both, which cannot be assigned.
        """
        layers = {"stem": self.stem, "pre_head_layer_norm": self.norm}
        for i, block in enumerate(self.blocks):
            mlps = {"token_mixing": block.token_mixing, "channel_mixing": block.channel_mixing}
            norms = {"layer_norm_0": block.layer_norm_0, "layer_norm_1": block.layer_norm_1}
            dense = {f"{name}/dense_{j}": getattr(mlp, f"dense_{j}") for name, mlp in mlps.items() for j in (0, 1)}
            layers |= {f"mixer_block_{i}/{name}": layer for name, layer in (norms | dense).items()}
        if self.head is not None:
            layers["head"] = self.head
        found: dict[str, Any] = {}
        for name, layer in layers.items():
            kinds = ("gamma", "beta") if isinstance(layer, LayerNorm) else ("kernel", "bias")
            found |= {f"{name}/{kind}": getattr(layer, kind) for kind in kinds}
        return found


def anatomy(model) -> Anatomy:
    """The layers of a model.

    Raises:
        ValueError: it does not contain the layers of a Mixer one after another, each used once; says what is different.
    """
    nodes = _chain(model)
    layers = [node.operation for node in nodes]
    stems = [i for i, layer in enumerate(layers) if isinstance(layer, PatchEmbed)]
    if len(stems) != 1:
        raise _not_a_mixer(model, f"it has {len(stems) or 'no'} keras_mixer.PatchEmbed")
    start = stems[0]
    end = start + 2
    while end < len(layers) and isinstance(layers[end], MixerBlock):
        end += 1
    expected = (keras.layers.Reshape, *(MixerBlock for _ in range(end - start - 2)), LayerNorm)
    for before, layer, kind in zip(layers[start:], [*layers[start + 1 : end + 1], None], expected, strict=False):
        if not isinstance(layer, kind):
            what = f"{layer.name!r} ({type(layer).__name__})" if layer is not None else "nothing"
            raise _not_a_mixer(model, f"{before.name!r} is followed by {what}")
    sizes = {(block.tokens_mlp_dim, block.channels_mlp_dim, block.exact_gelu) for block in layers[start + 2 : end]}
    if len(sizes) != 1:
        raise _not_a_mixer(model, f"its blocks have {len(sizes) or 'no'} different sizes")
    if len({id(layer) for layer in layers}) < len(layers):
        raise _not_a_mixer(model, "a layer is used more than once")
    if layers[end].epsilon != LAYER_NORM_EPSILON:
        raise _not_a_mixer(model, f"the epsilon of its last LayerNorm is {layers[end].epsilon}")
    return Anatomy(
        model=model,
        before=tuple(layers[:start]),
        stem=layers[start],
        tokens=layers[start + 1],
        blocks=tuple(layers[start + 2 : end]),
        norm=layers[end],
        after=tuple(layers[end + 1 :]),
        nodes=tuple(nodes),
        nested=any(layer not in model.layers for layer in layers if isinstance(layer, keras.layers.Layer)),
    )


def plain(model, purpose) -> Anatomy:
    """The layers of a model that `keras_mixer.Mixer` could have built.

    Args:
        model: the model.
        purpose: of the call, for the message, such as "save_official".

    Raises:
        ValueError: as `anatomy`, or there are layers of the user's; names them.
    """
    parts = anatomy(model)
    if parts.added:
        raise ValueError(
            f"{purpose} takes a Mixer as keras_mixer.Mixer builds it, but model {model.name!r} has other layers too: "
            f"{', '.join(map(repr, parts.added))}. Pass the Mixer to which they were added."
        )
    return parts


def is_mixer(model) -> bool:
    """Whether a model contains the layers of a Mixer one after another."""
    try:
        anatomy(model)
    except ValueError:
        return False
    return True


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
    return ValueError(
        f"Model {getattr(model, 'name', model)!r} is not a Mixer of this package: {reason}. Expected PatchEmbed, "
        "Reshape, MixerBlocks and LayerNorm of keras_mixer.Mixer one after another."
    )

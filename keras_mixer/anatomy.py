"""What a model consists of, read from its graph: whether it is a Mixer, and which layers were added to it."""

import functools
import inspect

import keras
import numpy as np

from keras_mixer.fast_cpu import LayerNorm
from keras_mixer.layers import LAYER_NORM_EPSILON, MixerBlock, PatchEmbed
from keras_mixer.mixer_model import ClassifierHead, MixerModel, ModelFacts
from keras_mixer.variants import Variant, token_grid

PIXELS = (0, 255)
HEAD = (keras.layers.GlobalAveragePooling1D, keras.layers.Dense, keras.layers.Activation)


class Anatomy:
    """The layers of a Mixer from its image to its output, one after another; models inside the model are opened.

    Attributes:
        layers: all layers, of which `before` are those between image and stem (none, the scaling of the pixels, or
            what the user added), `body` those of a Mixer (`stem`, `tokens`, `blocks`, `norm`), and `after` those after
            the last LayerNorm (pooling or grid, head, activation, or what the user added).
        nodes: Keras's node of each layer in the graph; those of a model inside the model belong to that one's graph.
    """

    def __init__(self, model, nodes, start, end):
        self.model, self.nodes = model, nodes
        self.layers = layers = tuple(node.operation for node in nodes)
        self.before, self.body, self.after = layers[:start], layers[start : end + 1], layers[end + 1 :]
        self.stem, self.tokens, self.blocks, self.norm = *self.body[:2], self.body[2:-1], self.body[-1]

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
    def nested(self) -> bool:
        """Whether there are models inside the model."""
        return any(isinstance(layer, keras.Model) for layer in self.model.layers)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns `(g_h, g_w)` of the tokens."""
        return self.output_of(self.stem).shape[1:3]

    @property
    def added(self) -> tuple[str, ...]:
        """Names of the layers with which `keras_mixer.Mixer` would not have built the model."""
        scaling = all(isinstance(layer, keras.layers.Rescaling) for layer in self.before)
        before = () if scaling and self._range_of_pixels() in (PIXELS, self.stem.pixel_range) else self.before
        kinds = all(map(isinstance, self.after, HEAD)) and 0 < len(self.after) <= len(HEAD)
        head = kinds and all(dense.use_bias and _is_linear(dense) for dense in self.after[1:2])
        grid = len(self.after) == 1 and isinstance(self.after[0], keras.layers.Reshape)
        return tuple(layer.name for layer in (*before, *(() if head or grid else self.after)))

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

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Values of a black and a white pixel at the input of the model.

        Raises:
            ValueError: they are unknown, because the user's layers before the stem change pixels in another way.
        """
        if (found := self._range_of_pixels()) is not None:
            return found
        names = ", ".join(repr(layer.name) for layer in self.before)
        raise ValueError(
            f"Model {self.model.name!r} changes pixels before the stem ({names}), and maps neither [0, 255] nor "
            f"{list(self.stem.pixel_range)} to the {list(self.stem.pixel_range)} that the stem expects. Leave these "
            "layers out of the model that is evaluated or exported."
        )

    def _range_of_pixels(self):
        """The range that the layers before the stem map to that of the stem: tried with a black and a white image."""
        for black_and_white in (PIXELS, self.stem.pixel_range) if self.before else (self.stem.pixel_range,):
            x = np.stack([np.full(self.model.input_shape[1:], value, np.float32) for value in black_and_white])
            for layer in self.before:
                training = "training" in inspect.signature(layer.call).parameters
                x = self.call(layer, x, functools.partial(layer, training=False) if training else None)
            seen = keras.ops.convert_to_numpy(x).reshape(2, -1)
            if np.allclose(seen, np.array(self.stem.pixel_range)[:, None], atol=1e-3):
                return black_and_white
        return None

    @property
    def facts(self) -> ModelFacts:
        """What the layers know; class names of an added head are those of `model.class_names`, if it has them."""
        head = next((layer for layer in self.after[::-1] if isinstance(layer, ClassifierHead)), None)
        names = getattr(self.model, "class_names", None) if head is None else head.class_names
        return ModelFacts(
            class_names=None if names is None else tuple(map(str, names)),
            trained_on=getattr(head, "trained_on", None),
            evaluation_crop=getattr(head, "evaluation_crop", None),
            pixel_range=self.stem.pixel_range,
            exact_gelu=self.blocks[0].exact_gelu,
        )

    @property
    def quantized(self) -> str | None:
        """Path of the first layer of the body or head that Keras has quantized; None if there is none."""
        parts = [part for part in self.layers if isinstance(part, keras.layers.Layer)]
        layers = [layer for part in parts for layer in part._flatten_layers()]
        return next((layer.path for layer in layers if layer.quantization_mode is not None), None)

    def refuse_quantized(self):
        """Raises ValueError if Keras has quantized a layer, whose weights are then others."""
        if self.quantized is not None:
            raise ValueError(f"The layer {self.quantized} is quantized. Use the model from before its quantization.")

    def variant(self) -> Variant:
        """The sizes of the model."""
        height, width = self.stem.patch_size
        patch, block = height if height == width else (height, width), self.blocks[0]
        return Variant(patch, len(self.blocks), self.stem.hidden_dim, block.tokens_mlp_dim, block.channels_mlp_dim)


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
    end = stems[0] + 2
    while end < len(layers) and isinstance(layers[end], MixerBlock):
        end += 1
    for at, kind in {stems[0] + 1: keras.layers.Reshape, end: LayerNorm}.items():
        if at >= len(layers) or not isinstance(layers[at], kind):
            what = f"{layers[at].name!r} ({type(layers[at]).__name__})" if at < len(layers) else "nothing"
            raise _not_a_mixer(model, f"{layers[at - 1].name!r} is followed by {what}")
    blocks = layers[stems[0] + 2 : end]
    sizes = {(block.tokens_mlp_dim, block.channels_mlp_dim, block.exact_gelu) for block in blocks}
    if len(sizes) != 1:
        raise _not_a_mixer(model, f"its blocks have {len(sizes) or 'no'} different sizes")
    if len(set(map(id, layers))) < len(layers):
        raise _not_a_mixer(model, "a layer is used more than once")
    if layers[end].epsilon != LAYER_NORM_EPSILON:
        raise _not_a_mixer(model, f"the epsilon of its last LayerNorm is {layers[end].epsilon}")
    return Anatomy(model, nodes, stems[0], end)


def plain(model, purpose) -> Anatomy:
    """The layers of a model that `keras_mixer.Mixer` could have built.

    Raises:
        ValueError: as `anatomy`, or there are layers of the user's; names them, and the purpose such as "load_weights".
    """
    parts = anatomy(model)
    if parts.added:
        inside = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
        use = f"model.get_layer({inside[0]!r})" if inside else "the Mixer to which they were added"
        raise ValueError(
            f"{purpose} takes a Mixer as keras_mixer.Mixer builds it, but model {model.name!r} has other layers too: "
            f"{', '.join(map(repr, parts.added))}. Pass {use}."
        )
    return parts


def is_mixer(model) -> bool:
    """Whether a model contains the layers of a Mixer one after another."""
    try:
        return bool(anatomy(model))
    except ValueError:
        return False


def rebuild(model, *, precision=None, input_shape=None, **options):
    """A copy of a Mixer, with layers added to it or not, without its weights.

    `precision` is the dtype policy of the body; all other layers then compute in float32. `options` are arguments of
    `MixerBlock` to change in all blocks. None keeps what the model has.
    """
    parts = anatomy(model)
    image = x = keras.Input(input_shape or model.input_shape[1:], dtype=model.inputs[0].dtype, name="image")
    grid = token_grid(image.shape[1:3], parts.stem.patch_size)
    for layer in parts.layers:
        config = layer.get_config()
        config.pop("lora_rank", None)  # `copy_weights` adds the update to the kernel
        if precision is not None and isinstance(layer, keras.layers.Layer):
            config["dtype"] = precision if layer in parts.body else "float32"
        if layer is parts.tokens:
            config["target_shape"] = (grid[0] * grid[1], parts.stem.hidden_dim)
        if layer in parts.blocks:
            config |= options
        if parts.after[:1] == (layer,) and isinstance(layer, keras.layers.Reshape):
            config["target_shape"] = (*grid, parts.stem.hidden_dim)
        x = parts.call(layer, x, type(layer).from_config(config))
    kind = MixerModel if isinstance(model, MixerModel) else keras.Model
    return kind(image, x, name=model.name, trainable=model.trainable)


def copy_weights(layers, new_layers):
    """Sets the weights of layers to those of others of the same kind; LoRA updates are added to their kernels."""
    for pair in zip(layers, new_layers, strict=True):
        if not isinstance(pair[0], keras.layers.Layer):  # an operation, such as a division
            continue
        for old, new in zip(*(layer._flatten_layers() for layer in pair), strict=True):
            stored: dict = {}
            old.save_own_variables(stored)
            # As copies: JAX would let both variables share a buffer, and a training step gives its buffers away.
            new.load_own_variables({name: np.array(value) for name, value in stored.items()})


def _is_linear(layer):
    return layer.activation is keras.activations.linear


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

"""What a model consists of, read from its graph: whether it is a Mixer, and which layers were added to it."""

import functools

import keras
import numpy as np

from keras_mixer.fast_cpu import LayerNorm
from keras_mixer.imagenet_classes import checked_class_names
from keras_mixer.layers import LAYER_NORM_EPSILON, MixerBlock, PatchEmbed
from keras_mixer.mixer_model import ClassifierHead, MixerModel, ModelFacts
from keras_mixer.variants import SMALL_VARIANTS, VARIANTS, Variant, as_pair, token_grid

PIXELS = (0, 255)
ACTIVATIONS = ("softmax", "sigmoid")  # from logits to probabilities
BINARY_LOSSES = ("binary_crossentropy", "binary_focal_crossentropy", "sigmoid_cross_entropy")
HEAD = (keras.layers.GlobalAveragePooling1D, keras.layers.Dense, keras.layers.Activation)
POOLING = (keras.layers.GlobalAveragePooling1D, keras.layers.GlobalAveragePooling2D, keras.layers.Reshape)


class Anatomy:
    """The layers of a Mixer from its image to its output, one after another; models inside the model are opened.

    Attributes:
        model: the model itself.
        layers: all layers, of which `before` are those between image and stem (none, the scaling of the pixels, or
            what the user added), `body` those of a Mixer (`stem`, `tokens`, `blocks`, `norm`), and `after` those after
            the last LayerNorm (pooling or grid, head, activation, or what the user added).
    """

    def __init__(self, model, nodes, start, end):
        self.model, self._own_nodes = model, nodes
        self.layers = layers = tuple(node.operation for node in nodes)
        self.before, self.body, self.after = layers[:start], layers[start : end + 1], layers[end + 1 :]
        self.stem, self.tokens, self.blocks, self.norm = *self.body[:2], self.body[2:-1], self.body[-1]
        if self.after and isinstance(self.after[0], keras.layers.GlobalAveragePooling1D):
            self.pool = self.after[0]  # (B, S, C) -> (B, C) in float32 or better
        else:
            exact = keras.backend.result_type(self.norm.variable_dtype, "float32")
            self.pool = keras.layers.GlobalAveragePooling1D("channels_last", dtype=exact, name="mean_over_tokens")

    @functools.cached_property
    def graph(self) -> keras.Model:
        """The model, or the same layers without models inside it: the nodes of those belong to other graphs."""
        if not any(isinstance(layer, keras.Model) for layer in self.model.layers):
            return self.model
        (of_image,) = self.model.inputs
        image = x = keras.Input(of_image.shape[1:], dtype=of_image.dtype, name="image")
        for node in self._own_nodes:
            x = _call(node, x, node.operation)
        return model_like(self.model, image, x)

    @functools.cached_property
    def _nodes(self):
        return self._own_nodes if self.graph is self.model else _chain(self.graph)

    def output_of(self, layer) -> keras.KerasTensor:
        """The tensor after a layer of the graph, or after `pool`."""
        if layer not in self.layers:
            return layer(self.output_of(self.norm))
        return self._nodes[self.layers.index(layer)].output_tensors[0]

    def call(self, layer, x, copy=None):
        """A layer, or a copy of it, on a tensor; where the graph has this tensor, its result is that of the graph."""
        if layer not in self.layers:
            return layer(x)
        node = self._nodes[self.layers.index(layer)]
        if copy is None and x is node.input_tensors[0]:
            return node.output_tensors[0]
        return _call(node, x, copy or layer)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns `(g_h, g_w)` of the tokens."""
        return self._own_nodes[len(self.before)].output_tensors[0].shape[1:3]

    @property
    def added(self) -> tuple[str, ...]:
        """Names of the layers with which `keras_mixer.Mixer` would not have built the model."""
        scaling = all(isinstance(layer, keras.layers.Rescaling) for layer in self.before)
        before = () if scaling and self._known_range is not None else self.before
        kinds = all(map(isinstance, self.after, HEAD)) and 0 < len(self.after) <= len(HEAD)
        head = kinds and all(dense.use_bias and _is_linear(dense) for dense in self.after[1:2])
        grid = len(self.after) == 1 and isinstance(self.after[0], keras.layers.Reshape)
        return tuple(layer.name for layer in (*before, *(() if head or grid else self.after)))

    @property
    def head(self) -> keras.layers.Dense | None:
        """The layer of the logits; None in a model without a head, or with layers of the user's after the body."""
        return self.after[1] if len(self.after) > 1 and not self.added else None

    @property
    def pixel_range(self) -> tuple[float, float]:
        """Values of a black and a white pixel at the input; ValueError if layers of the user's leave them unknown."""
        if self._known_range is not None:
            return self._known_range
        names = ", ".join(repr(layer.name) for layer in self.before)
        raise ValueError(
            f"Model {self.model.name!r} changes pixels before the stem ({names}), and maps neither [0, 255] nor "
            f"{list(self.stem.pixel_range)} to the {list(self.stem.pixel_range)} that the stem expects. Leave these "
            "layers out of the model that is evaluated or exported."
        )

    @functools.cached_property
    def _known_range(self):
        """The range that the layers before the stem map to that of the stem: tried with a black and a white image."""
        if not self.before:
            return self.stem.pixel_range
        before = keras.Model(self.graph.inputs[0], self._nodes[len(self.before)].input_tensors[0])
        for values in (PIXELS, self.stem.pixel_range):
            images = np.stack([np.full(self.graph.inputs[0].shape[1:], value, np.float32) for value in values])
            seen = keras.ops.convert_to_numpy(before(images, training=False)).reshape(2, -1)
            if np.allclose(seen, np.array(self.stem.pixel_range)[:, None], atol=1e-3):
                return values
        return None

    @property
    def facts(self) -> ModelFacts:
        """What the layers know; class names of an added head are those of `model.class_names`, if it has them."""
        head = next((layer for layer in self.after[::-1] if isinstance(layer, ClassifierHead)), None)
        names = getattr(self.model, "class_names", None) if head is None else head.class_names
        return ModelFacts(
            class_names=checked_class_names(names) if head is None and names is not None else names,
            trained_on=getattr(head, "trained_on", None),
            evaluation_crop=getattr(head, "evaluation_crop", None),
            pixel_range=self.stem.pixel_range,
            exact_gelu=self.blocks[0].exact_gelu,
        )

    @property
    def evaluation_crop(self) -> str:
        """The evaluation crop, or that of the paper's Table 3 if it is unknown."""
        return self.facts.evaluation_crop or "resmall-crop"

    @property
    def quantized(self) -> str | None:
        """Path of the first layer that Keras has quantized, whose weights are then others; None if there is none."""
        parts = [part for part in self.layers if isinstance(part, keras.layers.Layer)]
        layers = [layer for part in parts for layer in part._flatten_layers()]
        return next((layer.path for layer in layers if layer.quantization_mode is not None), None)

    def variant(self) -> Variant:
        """The sizes of the model."""
        height, width = self.stem.patch_size
        patch, block = height if height == width else (height, width), self.blocks[0]
        return Variant(patch, len(self.blocks), self.stem.hidden_dim, block.tokens_mlp_dim, block.channels_mlp_dim)

    def described(self) -> str:
        """The sizes in words, such as "Mixer B/16: 12 blocks, 768 channels, patches of 16 x 16 px"."""
        sizes = self.variant()
        known = [name for name, variant in (VARIANTS | SMALL_VARIANTS).items() if variant == sizes]
        height, width = as_pair(sizes.patch_size)
        blocks = f"{sizes.num_blocks} blocks, {sizes.hidden_dim} channels"
        return f"{' '.join(['Mixer', *known])}: {blocks}, patches of {height} x {width} px"

    def output(self, classifier_activation=None) -> tuple[str, str | None]:
        """The output (probabilities, logits or features), and the activation that makes probabilities of logits.

        Args:
            classifier_activation: of a model of logits; None for the one implied by its loss.

        Raises:
            ValueError: the meaning of the output is unknown, or the argument does not fit it.
        """
        if classifier_activation not in (None, *ACTIVATIONS):
            raise ValueError(f"classifier_activation must be None, softmax or sigmoid, got {classifier_activation!r}.")
        last = self.layers[-1]
        learned = any(getattr(layer, "weights", None) for layer in self.after)
        function = getattr(last, "activation", None)
        name = getattr(function, "__name__", type(last).__name__.lower())  # keras.ops.softmax is a class Softmax
        if self.after and not learned and isinstance(last, POOLING):
            kind, activation = "features", None
        elif name in ACTIVATIONS:
            kind, activation = "probabilities", name
        elif name == "linear":
            kind, activation = "logits", classifier_activation or implied_activation(self.model)
        else:
            raise ValueError(
                f"Model {self.model.name!r} ends in {last.name!r} ({name}), so the meaning of its outputs is unknown. "
                "Expected softmax, sigmoid, logits (a Dense layer without activation) or features (include_top=False)."
            )
        if classifier_activation not in (None, activation):
            ends = f"ends in {activation}" if activation else "has no head"
            raise ValueError(f"classifier_activation={classifier_activation!r} does not fit a model that {ends}.")
        return kind, activation


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
    """The layers of a model that `keras_mixer.Mixer` could have built, and Keras has not quantized.

    Raises:
        ValueError: as `anatomy`, or there are other layers; names them, and the purpose such as "load_weights".
    """
    parts = anatomy(model)
    if parts.added:
        inside = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
        use = f"model.get_layer({inside[0]!r})" if inside else "the Mixer to which they were added"
        raise ValueError(
            f"{purpose} takes a Mixer as keras_mixer.Mixer builds it, but model {model.name!r} has other layers too: "
            f"{', '.join(map(repr, parts.added))}. Pass {use}."
        )
    return unquantized(parts)


def unquantized(parts) -> Anatomy:
    """The same layers; ValueError if Keras has quantized one of them."""
    if parts.quantized is not None:
        raise ValueError(f"The layer {parts.quantized} is quantized. Use the model from before its quantization.")
    return parts


def rebuild(model, *, precision=None, input_shape=None, **options):
    """A copy of a Mixer, with layers added to it or not, without its weights.

    `precision` is the dtype policy of the body; all other layers then compute in float32. `options` are arguments of
    `MixerBlock` to change in all blocks. None keeps what the model has.
    """
    parts = anatomy(model)
    (of_image,) = model.inputs
    image = x = keras.Input(input_shape or of_image.shape[1:], dtype=of_image.dtype, name="image")
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
    return model_like(model, image, x, trainable=model.trainable)


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


def model_like(model, image, outputs, **options):
    """A model of a graph, with the name of another, and a `MixerModel` if that is one."""
    return (MixerModel if isinstance(model, MixerModel) else keras.Model)(image, outputs, name=model.name, **options)


def is_mixer(model) -> bool:
    """Whether a model contains the layers of a Mixer one after another."""
    try:
        return bool(anatomy(model))
    except ValueError:
        return False


def implied_activation(model) -> str:
    """The activation that the loss of a compiled model applies to its logits."""
    losses = keras.tree.flatten(getattr(model, "loss", None))
    names = {getattr(loss, "name", None) or getattr(loss, "__name__", None) or str(loss) for loss in losses}
    return "sigmoid" if names & set(BINARY_LOSSES) else "softmax"


def probabilities_of(logits, activation) -> np.ndarray:
    """`(B, classes) -> (B, classes) float64`: applies the activation in NumPy, independently of any model."""
    logits = np.asarray(logits, np.float64)
    if activation == "sigmoid":
        return np.exp(-np.logaddexp(0, -logits))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


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


def _call(node, x, layer):
    """A layer on a tensor, with the other arguments that a node has."""
    given = (node.arguments.args, node.arguments.kwargs)
    replaced = keras.tree.map_structure(lambda value: x if isinstance(value, keras.KerasTensor) else value, given)
    arguments, options = replaced
    return layer(*arguments, **options)


def _not_a_mixer(model, reason):
    return ValueError(
        f"Model {getattr(model, 'name', model)!r} is not a Mixer of this package: {reason}. Expected PatchEmbed, "
        "Reshape, MixerBlocks and LayerNorm of keras_mixer.Mixer one after another."
    )

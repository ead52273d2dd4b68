"""MLP-Mixer as functional Keras models: `Mixer` for any size, one function for each row of Table 1, and its features.

The layers of a model, by name: `image`, `preprocessing`, `stem`, `tokens`, `mixer_block_0` ..., `pre_head_layer_norm`,
`pool`, `head` (logits), `probabilities`.
"""

import dataclasses

import keras
from keras import ops

from keras_mixer.layers import LAYER_NORM_EPSILON, MixerBlock, PatchEmbed
from keras_mixer.variants import VARIANTS, as_pair, token_grid
from keras_mixer.weights.loading import load_weights


@keras.saving.register_keras_serializable("keras_mixer")
class MixerModel(keras.Model):
    """A functional `keras.Model` that also carries what a client of it must know; both travel in the `.keras` file.

    Attributes:
        class_names: one name for each output in order, or None when unknown.
        evaluation_crop: how an image of any size is brought to the input size, one of
            `keras_mixer.data.preprocessing.EVALUATION_CROPS`, or None when unknown.
    """

    class_names: tuple[str, ...] | None = None
    evaluation_crop: str | None = None

    def get_config(self):
        names = None if self.class_names is None else list(self.class_names)
        return {**super().get_config(), "class_names": names, "evaluation_crop": self.evaluation_crop}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        graph = {key: value for key, value in config.items() if key not in ("class_names", "evaluation_crop")}
        model = super().from_config(graph, custom_objects)
        names = config.get("class_names")
        model.class_names = None if names is None else tuple(names)
        model.evaluation_crop = config.get("evaluation_crop")
        return model


def Mixer(
    patch_size,
    num_blocks,
    hidden_dim,
    tokens_mlp_dim,
    channels_mlp_dim,
    *,
    input_shape=(224, 224, 3),
    include_preprocessing=True,
    include_top=True,
    pooling=None,
    classes=1000,
    classifier_activation="softmax",
    weights=None,
    dropout_rate=0.0,
    drop_path_rate=0.0,
    name=None,
):
    """An MLP-Mixer of any size: `(B, H, W, channels) -> (B, classes)`.

    Args:
        patch_size: side of a patch in pixels, or `(height, width)`; must divide the image.
        num_blocks: number of Mixer blocks L.
        hidden_dim: channels C of every token.
        tokens_mlp_dim: hidden units D_S of the token-mixing MLPs.
        channels_mlp_dim: hidden units D_C of the channel-mixing MLPs.
        input_shape: `(height, width, channels)` of an image in pixels; any rectangle, any channel count.
        include_preprocessing: True: images are pixels in [0, 255], uint8 or float, and mapped to [-1, 1] inside.
            False: images are already in [-1, 1].
        include_top: whether the classification head is there.
        pooling: without the head, None gives the token grid `(B, g_h, g_w, C)` after the last LayerNorm and "avg" its
            mean `(B, C)`. Ignored with the head.
        classes: number of outputs of the head.
        classifier_activation: applied to the logits: "softmax", "sigmoid" or another Keras activation; None returns
            the logits.
        weights: None for random ones (the head starts at zero, as in the official code), or a source for
            `keras_mixer.load_weights`.
        dropout_rate: dropout in the MLPs, in [0, 1); the paper's models use 0.
        drop_path_rate: stochastic depth, in [0, 1): the probability rises linearly from 0 for the first MLP to this
            for the last of the 2 L MLPs.
        name: of the model.

    Returns:
        A `keras.Model`; logits, means over tokens and outputs are float32 also under a mixed-precision policy.

    Raises:
        ValueError: an argument is out of range, or the patch does not divide the image (names sizes that work).

    Source: section 2 and Table 1 of arXiv 2105.01601.

    Example:
        >>> keras_mixer.Mixer(4, 2, 32, 16, 64, input_shape=(32, 48, 1), classes=10).output_shape
        (None, 10)
    """
    _check_arguments(input_shape, include_top, pooling, classes, dropout_rate, drop_path_rate)
    sizes = {"num_blocks": num_blocks, "hidden_dim": hidden_dim, "tokens_mlp_dim": tokens_mlp_dim}
    for label, size in (sizes | {"channels_mlp_dim": channels_mlp_dim}).items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{label} must be a positive integer, not {size!r}.")
    grid = token_grid(input_shape[:2], as_pair(patch_size))
    exact = keras.backend.result_type(keras.config.dtype_policy().variable_dtype, "float32")
    last_mlp = max(2 * num_blocks - 1, 1)

    image = keras.Input(input_shape, name="image")
    x = image  # (B, H, W, channels)
    if include_preprocessing:  # in full precision: bfloat16 would round resized pixels to 8 bits
        x = keras.layers.Rescaling(1 / 127.5, offset=-1, dtype=exact, name="preprocessing")(x)
    x = PatchEmbed(patch_size, hidden_dim, name="stem")(x)  # (B, g_h, g_w, C)
    x = keras.layers.Reshape((grid[0] * grid[1], hidden_dim), name="tokens")(x)  # (B, S, C)
    for i in range(num_blocks):
        rates = (drop_path_rate * 2 * i / last_mlp, drop_path_rate * (2 * i + 1) / last_mlp)
        x = MixerBlock(tokens_mlp_dim, channels_mlp_dim, dropout_rate, rates, name=f"mixer_block_{i}")(x)
    x = keras.layers.LayerNormalization(epsilon=LAYER_NORM_EPSILON, name="pre_head_layer_norm")(x)
    if include_top or pooling == "avg":
        x = keras.layers.GlobalAveragePooling1D(dtype=exact, name="pool")(x)  # (B, C)
    else:
        x = keras.layers.Reshape((*grid, hidden_dim), name="grid")(x)  # (B, g_h, g_w, C)
    if include_top:
        x = keras.layers.Dense(classes, kernel_initializer="zeros", dtype=exact, name="head")(x)  # (B, classes)
        if classifier_activation is not None:
            x = keras.layers.Activation(classifier_activation, dtype=exact, name="probabilities")(x)
    model = MixerModel(image, x, name=name or "mixer")
    if weights is not None:
        load_weights(model, weights)
    return model


def _check_arguments(input_shape, include_top, pooling, classes, dropout_rate, drop_path_rate):
    if len(input_shape) != 3:
        raise ValueError(f"input_shape must be (height, width, channels), not {input_shape!r}.")
    if pooling not in (None, "avg"):
        raise ValueError(f'pooling must be None (token grid) or "avg" (mean over tokens), not {pooling!r}.')
    if include_top and (not isinstance(classes, int) or classes < 1):
        raise ValueError(
            f"classes must be a positive integer, not {classes!r}; include_top=False builds without a head."
        )
    for label, rate in {"dropout_rate": dropout_rate, "drop_path_rate": drop_path_rate}.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{label} must lie in [0, 1), not {rate!r}.")


def _variant(key):
    """The function that builds one row of Table 1; all seven share this signature."""

    def build(
        *,
        input_shape=(224, 224, 3),
        include_preprocessing=True,
        include_top=True,
        pooling=None,
        classes=1000,
        classifier_activation="softmax",
        weights=None,
        dropout_rate=0.0,
        drop_path_rate=0.0,
        name=None,
    ):
        return Mixer(
            **dataclasses.asdict(VARIANTS[key]),
            input_shape=input_shape,
            include_preprocessing=include_preprocessing,
            include_top=include_top,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            weights=weights,
            dropout_rate=dropout_rate,
            drop_path_rate=drop_path_rate,
            name=name or f"mixer_{key.replace('/', '').lower()}",
        )

    build.__name__ = build.__qualname__ = f"Mixer{key.replace('/', '')}"
    build.__doc__ = f"""Mixer-{key} of Table 1: `(B, H, W, channels) -> (B, classes)`.

    Args, Returns and Raises are those of `keras_mixer.Mixer`, with the sizes filled in:
    {VARIANTS[key]}.
    """
    return build


MixerS32 = _variant("S/32")
MixerS16 = _variant("S/16")
MixerB32 = _variant("B/32")
MixerB16 = _variant("B/16")
MixerL32 = _variant("L/32")
MixerL16 = _variant("L/16")
MixerH14 = _variant("H/14")


class _Branches(keras.layers.Layer):
    """What the two MLPs of a block add to the tokens: `(B, S, C) -> (B, S, C), (B, S, C)`, on the block's weights."""

    def __init__(self, block, **kwargs):
        super().__init__(dtype=block.dtype_policy, **kwargs)
        self.block = block

    def call(self, x):
        mixed_tokens = self.block.mix_tokens(x)
        return mixed_tokens, self.block.mix_channels(ops.add(x, mixed_tokens))

    def compute_output_shape(self, input_shape):
        return input_shape, input_shape


def feature_extractor(model, names=None):
    """What a Mixer computes inside, by name: a model `(B, H, W, channels) -> {name: tensor}` on the same weights.

    Names: `stem`, `block_i`, `block_i/token_mixing`, `block_i/channel_mixing` (what that MLP adds to the tokens), all
    as grids `(B, g_h, g_w, C)`; `pre_logits`, the mean over tokens `(B, C)`; `logits` `(B, classes)`.

    Args:
        model: a model of this package.
        names: the features wanted; None for all but those of the single MLPs.

    Returns:
        A `keras.Model` with a dict output. It shares the layers of `model`; nothing is copied.

    Raises:
        ValueError: a name is unknown (lists the valid ones), or `model` is not a Mixer.

    Source: ours; the names are those of big_vision's `out` dict.

    Example:
        >>> model = keras_mixer.MixerS32(classes=10)
        >>> keras_mixer.feature_extractor(model, ["block_7", "pre_logits"]).output_shape
        {'block_7': (None, 7, 7, 512), 'pre_logits': (None, 512)}
    """
    layers = {layer.name: layer for layer in model.layers}
    if "stem" not in layers or "pre_head_layer_norm" not in layers:
        raise ValueError(
            f"Model {model.name!r} is no Mixer of this package: it lacks the layers 'stem' and 'pre_head_layer_norm'."
        )
    grid = layers["stem"].output.shape[1:]

    def as_grid(tokens):
        return ops.reshape(tokens, (-1, *grid))

    blocks = [layer for layer in model.layers if isinstance(layer, MixerBlock)]
    features = {"stem": layers["stem"].output}
    inner = {}
    for i, block in enumerate(blocks):
        features[f"block_{i}"] = as_grid(block.output)
        mixed_tokens, mixed_channels = _Branches(block, name=f"{block.name}_branches")(block.input)
        inner[f"block_{i}/token_mixing"] = as_grid(mixed_tokens)
        inner[f"block_{i}/channel_mixing"] = as_grid(mixed_channels)
    if "pool" in layers:
        features["pre_logits"] = layers["pool"].output
    else:
        features["pre_logits"] = ops.mean(layers["pre_head_layer_norm"].output, axis=1)
    if "head" in layers:
        features["logits"] = layers["head"].output
    valid = features | inner
    wanted = list(features) if names is None else list(names)
    unknown = [name for name in wanted if name not in valid]
    if unknown:
        raise ValueError(f"Unknown features {unknown}; this model has: {', '.join(valid)}.")
    return keras.Model(model.input, {name: valid[name] for name in wanted}, name=f"{model.name}_features")

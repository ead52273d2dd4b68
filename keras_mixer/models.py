"""MLP-Mixer as functional Keras models: `Mixer` for any size, and one function per row of Table 1.

Layer names: `image`, `preprocessing`, `stem`, `tokens`, `mixer_block_0` ..., `pre_head_layer_norm`,
`pool`, `head` (logits), `probabilities`.
"""

import contextlib
import dataclasses

import keras

from keras_mixer.fast_cpu import LayerNorm
from keras_mixer.layers import LAYER_NORM_EPSILON, MixerBlock, PatchEmbed
from keras_mixer.mixer_model import CARRIED, MixerModel, blocks_of
from keras_mixer.variants import VARIANTS, Variant, as_pair, token_grid
from keras_mixer.weights.loading import load_weights, open_widened


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
        input_shape: `(height, width, channels)` of an image in pixels; any rectangle, any number of channels.
        include_preprocessing: True: the model takes pixels in [0, 255], uint8 or float, and maps them to [-1, 1].
            False: it takes images in [-1, 1].
        include_top: whether to include the classification head.
        pooling: without the head, None gives the token grid `(B, g_h, g_w, C)` after the last LayerNorm and "avg" its
            mean `(B, C)`. Ignored with the head.
        classes: number of outputs of the head.
        classifier_activation: applied to the logits: "softmax", "sigmoid" or another Keras activation. None returns
            the logits.
        weights: None for random weights (the head starts at zero, as in the official code), or a source for
            `keras_mixer.load_weights`. If the image is a whole number of tiles of the size the weights were trained
            at, D_S grows by that number (the paper's rule for higher resolution).
        dropout_rate: dropout in the MLPs, in [0, 1); the paper's models use 0.
        drop_path_rate: stochastic depth, in [0, 1): the probability rises linearly from 0 for the first of the 2 L MLPs
            to this value for the last.
        name: name of the model.

    Returns:
        A `keras.Model`. Pooling, logits and outputs are float32 even under a mixed-precision policy.

    Raises:
        ValueError: an argument is out of range, or the patch does not divide the image (the message names sizes that
            work).

    Source: section 2 and Table 1 of arXiv 2105.01601.

    Example:
        >>> keras_mixer.Mixer(4, 2, 32, 16, 64, input_shape=(32, 48, 1), classes=10).output_shape
        (None, 10)
    """
    _check_arguments(input_shape, include_top, pooling, classes, dropout_rate, drop_path_rate)
    sizes = {"num_blocks": num_blocks, "hidden_dim": hidden_dim, "tokens_mlp_dim": tokens_mlp_dim}
    for label, size in (sizes | {"channels_mlp_dim": channels_mlp_dim}).items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{label} must be a positive integer, got {size!r}.")
    grid = token_grid(input_shape[:2], as_pair(patch_size))
    if weights is not None:
        variant = Variant(patch_size, num_blocks, hidden_dim, tokens_mlp_dim, channels_mlp_dim)
        weights, variant = open_widened(weights, variant, grid)
        tokens_mlp_dim = variant.tokens_mlp_dim
    exact = keras.backend.result_type(keras.config.dtype_policy().variable_dtype, "float32")
    last_mlp = max(2 * num_blocks - 1, 1)

    image = keras.Input(input_shape, name="image")
    x = image  # (B, H, W, channels)
    if include_preprocessing:  # in full precision: bfloat16 would round pixels to 8 bits
        x = keras.layers.Rescaling(1 / 127.5, offset=-1, dtype=exact, name="preprocessing")(x)
    x = PatchEmbed(patch_size, hidden_dim, name="stem")(x)  # (B, g_h, g_w, C)
    x = keras.layers.Reshape((grid[0] * grid[1], hidden_dim), name="tokens")(x)  # (B, S, C)
    for i in range(num_blocks):
        rates = (drop_path_rate * 2 * i / last_mlp, drop_path_rate * (2 * i + 1) / last_mlp)
        x = MixerBlock(tokens_mlp_dim, channels_mlp_dim, dropout_rate, rates, name=f"mixer_block_{i}")(x)
    x = LayerNorm(epsilon=LAYER_NORM_EPSILON, name="pre_head_layer_norm")(x)
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


def arguments_of(model):
    """The arguments of `Mixer` that build a model of the same architecture.

    Raises:
        ValueError: `model` is not a Mixer of this package.
    """
    layers = {layer.name: layer for layer in model.layers}
    blocks = blocks_of(model)
    if "stem" not in layers or "pre_head_layer_norm" not in layers or not blocks:
        raise ValueError(
            f"Model {model.name!r} is not a Mixer of this package: it lacks a stem, Mixer blocks or the last LayerNorm."
        )
    activation = layers["probabilities"].get_config()["activation"] if "probabilities" in layers else None
    return {
        "patch_size": layers["stem"].patch_size,
        "num_blocks": len(blocks),
        "hidden_dim": layers["stem"].hidden_dim,
        "tokens_mlp_dim": blocks[0].tokens_mlp_dim,
        "channels_mlp_dim": blocks[0].channels_mlp_dim,
        "input_shape": model.input_shape[1:],
        "include_preprocessing": "preprocessing" in layers,
        "include_top": "head" in layers,
        "pooling": "avg" if "pool" in layers and "head" not in layers else None,
        "classes": layers["head"].units if "head" in layers else 1000,
        "classifier_activation": activation,
        "dropout_rate": blocks[0].dropout_rate,
        "drop_path_rate": blocks[-1].drop_path_rates[1],
        "name": model.name,
    }


def rebuild(model, *, precision=None, **changes):
    """A new Mixer with random weights and the arguments of `model`, except for `changes`.

    Args:
        model: a Mixer of this package.
        precision: dtype policy of the new model; None for the global one.
        **changes: arguments of `Mixer`.

    Raises:
        ValueError: `model` is not a Mixer of this package, or a change does not fit.
    """
    with dtype_policy(precision or keras.config.dtype_policy()):
        new = Mixer(**(arguments_of(model) | changes))
    for old_layer, new_layer in zip(blocks_of(model), blocks_of(new), strict=True):
        if old_layer.exact_gelu:
            new_layer.use_exact_gelu()
    for name in CARRIED:
        if hasattr(model, name):
            setattr(new, name, getattr(model, name))
    return new


@contextlib.contextmanager
def dtype_policy(policy):
    """Sets the global dtype policy inside a `with` block and restores it afterwards."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def class_names_of(model) -> tuple[str, ...]:
    """One name per output: the class names of the model, or the numbers from 0 if it has none."""
    return getattr(model, "class_names", None) or tuple(map(str, range(model.output_shape[-1])))


def evaluation_crop_of(model) -> str:
    """The evaluation crop of the model, or that of the paper's Table 3 if it has none."""
    return getattr(model, "evaluation_crop", None) or "resmall-crop"


def _check_arguments(input_shape, include_top, pooling, classes, dropout_rate, drop_path_rate):
    if len(input_shape) != 3:
        raise ValueError(f"input_shape must be (height, width, channels), got {input_shape!r}.")
    if pooling not in (None, "avg"):
        raise ValueError(f'pooling must be None (token grid) or "avg" (mean over tokens), got {pooling!r}.')
    if include_top and (not isinstance(classes, int) or classes < 1):
        raise ValueError(
            f"classes must be a positive integer, got {classes!r}. Use include_top=False for a model without a head."
        )
    for label, rate in {"dropout_rate": dropout_rate, "drop_path_rate": drop_path_rate}.items():
        if not 0 <= rate < 1:
            raise ValueError(f"{label} must be in [0, 1), got {rate!r}.")


def _variant(key):
    """Returns the function that builds one row of Table 1; all share this signature."""

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

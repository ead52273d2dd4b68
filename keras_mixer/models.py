"""MLP-Mixer as functional Keras models: `Mixer` for any size, and one function per row of Table 1."""

import inspect

import keras
import numpy as np

from keras_mixer.layers import LAYER_NORM_EPSILON, MixerBlock, PatchEmbed
from keras_mixer.mixer_model import ClassifierHead, MixerModel
from keras_mixer.primitives import LayerNorm
from keras_mixer.variants import VARIANTS, Variant, is_count, token_grid
from keras_mixer.weights.layouts import FORMS
from keras_mixer.weights.loading import load_weights, open_weights
from keras_mixer.weights.resolution import widened


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
    exact_gelu=False,
    pixel_range=(-1.0, 1.0),
):
    """An MLP-Mixer of any size: `(B, H, W, channels) -> (B, classes)`.

    Args:
        patch_size: side of a patch in pixels, or `(height, width)`; must divide the image.
        num_blocks: number of Mixer blocks L.
        hidden_dim: channels C of every token.
        tokens_mlp_dim: hidden units D_S of the token-mixing MLPs.
        channels_mlp_dim: hidden units D_C of the channel-mixing MLPs.
        input_shape: `(height, width, channels)` of an image in pixels; any rectangle, any number of channels.
        include_preprocessing: whether the model takes pixels in [0, 255], uint8 or float, and scales them itself.
        include_top: whether to include the classification head.
        pooling: without the head, None gives the token grid `(B, g_h, g_w, C)` and "avg" its mean `(B, C)`.
        classes: number of outputs of the head.
        classifier_activation: "softmax", "sigmoid" or another Keras activation; None returns the logits.
        weights: None for random weights and a head of zeros, or a source for `keras_mixer.load_weights`, which decides
            `exact_gelu` and `pixel_range`. An image of K tiles of their size multiplies D_S by K (the paper's rule).
        dropout_rate: dropout in the MLPs, in [0, 1); the paper's models use 0.
        drop_path_rate: stochastic depth, in [0, 1): rises linearly from 0 for the first MLP to this for the last.
        name: name of the model.
        exact_gelu: the erf form of GELU, which timm's models are trained with, instead of the tanh form.
        pixel_range: values of a black and a white pixel at the stem; (0, 1) for timm's `miil` weights.

    Returns:
        A `keras.Model`. All outputs but a token grid are float32 even under a mixed-precision policy.

    Raises:
        ValueError: an argument is out of range, or `exact_gelu` or `pixel_range` is neither the default nor that of
            the weights.

    Source: section 2 and Table 1 of arXiv 2105.01601.

    Example:
        >>> keras_mixer.Mixer(4, 2, 32, 16, 64, input_shape=(32, 48, 1), classes=10).output_shape
        (None, 10)
    """
    height, width, channels = input_shape
    if pooling not in (None, "avg"):
        raise ValueError(f'pooling must be None (token grid) or "avg" (mean over tokens), got {pooling!r}.')
    variant = Variant(patch_size, num_blocks, hidden_dim, tokens_mlp_dim, channels_mlp_dim)
    grid = token_grid((height, width), patch_size)
    counts = vars(variant) | {"channels": channels} | ({"classes": classes} if include_top else {})
    for label, size in counts.items():
        if label != "patch_size" and not is_count(size):
            raise ValueError(f"{label} must be a positive integer, got {size!r}.")
    for label, rate in {"dropout_rate": dropout_rate, "drop_path_rate": drop_path_rate}.items():
        if not isinstance(rate, int | float | np.floating) or not 0 <= rate < 1:
            raise ValueError(f"{label} must be a number in [0, 1), got {rate!r}.")
    input_shape, hidden_dim = tuple(map(int, input_shape)), int(hidden_dim)
    if weights is not None:
        weights = open_weights(weights, variant)
        tokens_mlp_dim = widened(variant, weights.grid_for(grid), grid).tokens_mlp_dim
        form = weights.form(exact_gelu=exact_gelu, pixel_range=tuple(pixel_range))
        exact_gelu, pixel_range = form["exact_gelu"], form["pixel_range"]
    exact = keras.backend.result_type(keras.config.dtype_policy().variable_dtype, "float32")
    drop_path_rates = np.linspace(0, drop_path_rate, 2 * num_blocks).reshape(-1, 2).tolist()  # of the MLPs of a block

    image = keras.Input(input_shape, dtype=exact, name="image")  # bfloat16 would round pixels to 8 bits
    x = image  # (B, H, W, channels)
    if include_preprocessing:
        black, white = pixel_range
        x = keras.layers.Rescaling((white - black) / 255, offset=black, dtype=exact, name="preprocessing")(x)
    x = PatchEmbed(patch_size, hidden_dim, pixel_range, name="stem")(x)  # (B, g_h, g_w, C)
    x = keras.layers.Reshape((grid[0] * grid[1], hidden_dim), name="tokens")(x)  # (B, S, C)
    for i, rates in enumerate(drop_path_rates):
        x = MixerBlock(tokens_mlp_dim, channels_mlp_dim, dropout_rate, rates, exact_gelu, name=f"mixer_block_{i}")(x)
    x = LayerNorm(epsilon=LAYER_NORM_EPSILON, name="pre_head_layer_norm")(x)
    if include_top or pooling == "avg":
        x = keras.layers.GlobalAveragePooling1D("channels_last", dtype=exact, name="pool")(x)  # (B, C)
    else:
        x = keras.layers.Reshape((*grid, hidden_dim), name="grid")(x)  # (B, g_h, g_w, C)
    if include_top:
        x = ClassifierHead(int(classes), kernel_initializer="zeros", dtype=exact, name="head")(x)  # (B, classes)
        if classifier_activation is not None:
            x = keras.layers.Activation(classifier_activation, dtype=exact, name="probabilities")(x)
    model = MixerModel(image, x, name=name or "mixer")
    if weights is not None:
        load_weights(model, weights)
    return model


SHARED = [p for p in inspect.signature(Mixer).parameters.values() if p.kind == p.KEYWORD_ONLY and p.name not in FORMS]
SIGNATURE = inspect.Signature(SHARED)  # of all functions below


def _variant(key):
    """The function that builds one row of Table 1."""
    short = key.replace("/", "")

    def build(*, name=None, **options):
        SIGNATURE.bind(**options)
        return Mixer(**vars(VARIANTS[key]), **options, name=name or f"mixer_{short.lower()}")

    build.__signature__ = SIGNATURE  # type: ignore[attr-defined]
    build.__name__ = build.__qualname__ = f"Mixer{short}"
    build.__doc__ = f"Mixer-{key} of Table 1: `keras_mixer.Mixer` with the sizes of {VARIANTS[key]}."
    return build


MixerS32 = _variant("S/32")
MixerS16 = _variant("S/16")
MixerB32 = _variant("B/32")
MixerB16 = _variant("B/16")
MixerL32 = _variant("L/32")
MixerL16 = _variant("L/16")
MixerH14 = _variant("H/14")

"""The three layers of MLP-Mixer. Shapes: B images, S tokens, C channels, D hidden units, g_h x g_w grid of tokens.

Constants and names of weights are those of the official JAX code; renaming a weight is a breaking change.

Source: arXiv 2105.01601, section 2 and appendix B (stochastic depth); google-research/vision_transformer, vit_jax.
"""

import functools
import math

import keras
from keras import ops

from keras_mixer.primitives import FixedLayer, LayerNorm, gelu
from keras_mixer.variants import as_pair, token_grid

LAYER_NORM_EPSILON = 1e-6  # flax's default; Keras's is 1e-3 and changes the logits
KERNEL_INITIALIZER = "lecun_normal"  # flax's default for Dense and Conv; Keras's is glorot_uniform
Dense = functools.partial(keras.layers.Dense, kernel_initializer=KERNEL_INITIALIZER)


@keras.saving.register_keras_serializable("keras_mixer")
class PatchEmbed(FixedLayer):
    """Splits an image into patches and projects each linearly: `(B, H, W, channels) -> (B, g_h, g_w, C)`.

    All patches share one linear map: a convolution with kernel = stride = patch, as in the official `stem`.

    Args:
        patch_size: side of a patch in pixels, or `(height, width)`.
        hidden_dim: channels C of a token.
        pixel_range: values of a black and a white pixel that the weights are made for; the layer only keeps it.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Raises:
        ValueError: an argument is out of range, or the sides of the images are unknown or not multiples of the patch.

    Example:
        >>> tuple(keras_mixer.PatchEmbed(16, 512)(np.zeros((1, 224, 224, 3), "float32")).shape)
        (1, 14, 14, 512)
    """

    def __init__(self, patch_size, hidden_dim, pixel_range=(-1.0, 1.0), **kwargs):
        super().__init__(**kwargs)
        self.patch_size, self.hidden_dim = as_pair(patch_size), hidden_dim
        black, white = map(float, pixel_range)
        if not -math.inf < black < white < math.inf:
            raise ValueError(f"pixel_range must be two finite numbers in ascending order, got {pixel_range!r}.")
        self.pixel_range = black, white

    def build(self, input_shape):
        token_grid(input_shape[1:3], self.patch_size)  # raises if the patch does not divide the image
        shape = (*self.patch_size, input_shape[-1], self.hidden_dim)
        self.kernel = self.add_weight(shape=shape, initializer=KERNEL_INITIALIZER, name="kernel")
        self.bias = self.add_weight(shape=(self.hidden_dim,), initializer="zeros", name="bias")

    def call(self, images):
        patches = ops.conv(images, self.kernel, strides=self.patch_size, padding="valid", data_format="channels_last")
        return ops.add(patches, self.bias)  # (B, g_h, g_w, C)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *token_grid(input_shape[1:3], self.patch_size), self.hidden_dim)


@keras.saving.register_keras_serializable("keras_mixer")
class MlpBlock(FixedLayer):
    """Dense, GELU, Dense over the last axis: `(B, ..., D) -> (B, ..., D)`.

    Args:
        mlp_dim: hidden units between the two Dense layers.
        dropout_rate: dropout after the GELU and after the second Dense, in [0, 1). The paper's models use 0.
        exact_gelu: the erf form of GELU, which timm's models are trained with, instead of the tanh form.
        flattened: merges all axes but the last for the two products: same values, faster on CPUs, slower on TPUs.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Example:
        >>> tuple(keras_mixer.MlpBlock(256)(np.zeros((1, 512, 196), "float32")).shape)
        (1, 512, 196)
    """

    def __init__(self, mlp_dim, dropout_rate=0.0, exact_gelu=False, flattened=True, **kwargs):
        super().__init__(**kwargs)
        self.mlp_dim, self.dropout_rate = mlp_dim, dropout_rate
        self.exact_gelu, self.flattened = exact_gelu, flattened
        self.dense_0 = self.add_layer(Dense, mlp_dim, name="dense_0")
        self.dropout_0 = self.add_layer(keras.layers.Dropout, dropout_rate, name="dropout_0")
        self.dropout_1 = self.add_layer(keras.layers.Dropout, dropout_rate, name="dropout_1")

    def build(self, input_shape):
        width = input_shape[-1]
        self.dense_1 = self.add_layer(Dense, width, name="dense_1")
        self.dense_0.build((None, width))
        self.dense_1.build((None, self.mlp_dim))

    def call(self, x, training=None):
        y = ops.reshape(x, (-1, x.shape[-1])) if self.flattened else x  # (rows, D)
        y = self.dropout_0(gelu(self.dense_0(y), self.exact_gelu, training), training=training)  # (rows, mlp_dim)
        y = self.dropout_1(self.dense_1(y), training=training)  # (rows, D)
        return ops.reshape(y, (-1, *ops.shape(x)[1:])) if self.flattened else y  # (B, ..., D)


@keras.saving.register_keras_serializable("keras_mixer")
class MixerBlock(FixedLayer):
    """Mixes tokens, then channels, each with a skip connection: `(B, S, C) -> (B, S, C)`.

    `y = x + token_mixing(norm(x)^T)^T` and `out = y + channel_mixing(norm(y))`, where ^T swaps tokens and channels.

    Args:
        tokens_mlp_dim: hidden units D_S of the token-mixing MLP.
        channels_mlp_dim: hidden units D_C of the channel-mixing MLP.
        dropout_rate: see `MlpBlock`.
        drop_path_rates: stochastic depth: probabilities, in [0, 1), of skipping the token-mixing and the channel-mixing
            MLP for an example. The others are rescaled to keep the expectation, unlike in big_vision.
        exact_gelu: see `MlpBlock`.
        rematerialize: True recomputes both MLPs for the gradient, "tokens" the token-mixing MLP only: less memory, more
            time. Not with `dropout_rate`, whose masks would differ.
        flattened: see `MlpBlock`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Example:
        >>> tuple(keras_mixer.MixerBlock(256, 2048)(np.zeros((1, 196, 512), "float32")).shape)
        (1, 196, 512)
    """

    def __init__(
        self,
        tokens_mlp_dim,
        channels_mlp_dim,
        dropout_rate=0.0,
        drop_path_rates=(0.0, 0.0),
        exact_gelu=False,
        rematerialize=False,
        flattened=True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if rematerialize and dropout_rate:
            raise ValueError("rematerialize would draw other dropout masks in the second computation. Use one of both.")
        self.tokens_mlp_dim, self.channels_mlp_dim = tokens_mlp_dim, channels_mlp_dim
        self.dropout_rate, self.drop_path_rates = dropout_rate, tuple(drop_path_rates)
        self.exact_gelu, self.rematerialize, self.flattened = exact_gelu, rematerialize, flattened
        norm = functools.partial(self.add_layer, LayerNorm, epsilon=LAYER_NORM_EPSILON)
        form = {"dropout_rate": dropout_rate, "exact_gelu": exact_gelu, "flattened": flattened}
        mlp = functools.partial(self.add_layer, MlpBlock, **form)
        drop_path = functools.partial(self.add_layer, keras.layers.Dropout, noise_shape=(None, 1, 1))  # per example
        self.layer_norm_0 = norm(name="layer_norm_0")
        self.token_mixing = mlp(tokens_mlp_dim, name="token_mixing")
        self.drop_path_0 = drop_path(self.drop_path_rates[0], name="drop_path_0")
        self.layer_norm_1 = norm(name="layer_norm_1")
        self.channel_mixing = mlp(channels_mlp_dim, name="channel_mixing")
        self.drop_path_1 = drop_path(self.drop_path_rates[1], name="drop_path_1")

    def build(self, input_shape):
        batch, tokens, channels = input_shape
        self.layer_norm_0.build(input_shape)
        self.token_mixing.build((batch, channels, tokens))
        self.layer_norm_1.build(input_shape)
        self.channel_mixing.build(input_shape)

    def mix_tokens(self, x, training=None):
        """`(B, S, C) -> (B, S, C)`: what the token-mixing MLP adds to `x`, before stochastic depth."""
        y = ops.transpose(self.layer_norm_0(x), (0, 2, 1))  # (B, C, S)
        return ops.transpose(self.token_mixing(y, training=training), (0, 2, 1))  # (B, S, C)

    def mix_channels(self, x, training=None):
        """`(B, S, C) -> (B, S, C)`: what the channel-mixing MLP adds to `x`, before stochastic depth."""
        return self.channel_mixing(self.layer_norm_1(x), training=training)

    def call(self, x, training=None):
        mix_tokens = functools.partial(self.mix_tokens, training=training)
        mix_channels = functools.partial(self.mix_channels, training=training)
        if self.rematerialize:  # without stochastic depth: what is computed twice must not draw twice
            mix_tokens = keras.remat(mix_tokens)
        if self.rematerialize is True:
            mix_channels = keras.remat(mix_channels)
        x = ops.add(x, self.drop_path_0(mix_tokens(x), training=training))
        return ops.add(x, self.drop_path_1(mix_channels(x), training=training))

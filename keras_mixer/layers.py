"""The three layers of MLP-Mixer. Shapes: B images, S tokens, C channels, D hidden units, g_h x g_w grid of tokens.

Every constant is the official JAX code's, not Keras's default: LayerNorm epsilon 1e-6, tanh-form GELU, LeCun-normal
kernels. Weight names follow the official checkpoints and are part of the contract.

Source: section 2 of arXiv 2105.01601; google-research/vision_transformer, vit_jax/models_mixer.py.
"""

import keras
from keras import ops

from keras_mixer.activations import erf_gelu, for_training, tanh_gelu
from keras_mixer.compiled import retrace_models_with
from keras_mixer.variants import as_pair, token_grid

LAYER_NORM_EPSILON = 1e-6  # flax's default; Keras's is 1e-3 and changes the logits
KERNEL_INITIALIZER = "lecun_normal"  # flax's default for Dense and Conv; Keras's is glorot_uniform


@keras.saving.register_keras_serializable("keras_mixer")
class LayerNorm(keras.layers.LayerNormalization):
    """Keras's LayerNormalization over the last axis, `(..., C) -> (..., C)`, with fewer passes over the tensor.

    The same numbers: Keras first works scale and offset into two tensors of the input's size. TensorFlow runs each
    operation by itself on CPUs, where this order takes a fifth (float32) to a third (bfloat16) less time, forward and
    backward. Statistics are float32 or better in every precision.
    """

    def call(self, x):
        dtype = keras.backend.result_type(x.dtype, "float32")
        y = ops.cast(x, dtype)
        y = y - ops.mean(y, axis=-1, keepdims=True)
        y = y * ops.rsqrt(ops.mean(ops.square(y), axis=-1, keepdims=True) + self.epsilon)
        return ops.cast(y * ops.cast(self.gamma, dtype) + ops.cast(self.beta, dtype), self.compute_dtype)


@keras.saving.register_keras_serializable("keras_mixer")
class PatchEmbed(keras.layers.Layer):
    """Cuts an image into patches and maps each linearly: `(B, H, W, channels) -> (B, g_h, g_w, C)`.

    The same linear map serves all patches, written as the convolution with kernel = stride = patch of the official
    `stem`. Unlike there, an image that the patch does not divide is an error instead of being padded.

    Args:
        patch_size: side of a patch in pixels, or `(height, width)`.
        hidden_dim: channels C of a token.
        **kwargs: `name`, `dtype` and the other arguments of `keras.layers.Layer`.

    Returns:
        Called on an image batch: the token grid, shape `(B, H / patch height, W / patch width, C)`, compute dtype.

    Raises:
        ValueError: when built on an image whose sides are unknown or no multiples of the patch.

    Source: section 2 of the paper, "per-patch fully-connected"; `stem` in vit_jax.

    Example:
        >>> tuple(keras_mixer.PatchEmbed(16, 512)(np.zeros((1, 224, 224, 3), "float32")).shape)
        (1, 14, 14, 512)
    """

    def __init__(self, patch_size, hidden_dim, **kwargs):
        super().__init__(**kwargs)
        self.patch_size = as_pair(patch_size)
        self.hidden_dim = hidden_dim
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        token_grid(input_shape[1:3], self.patch_size)  # raises on a size that does not divide
        self.kernel = self.add_weight(
            shape=(*self.patch_size, input_shape[-1], self.hidden_dim), initializer=KERNEL_INITIALIZER, name="kernel"
        )
        self.bias = self.add_weight(shape=(self.hidden_dim,), initializer="zeros", name="bias")

    def call(self, images):
        patches = ops.conv(images, self.kernel, strides=self.patch_size, padding="valid", data_format="channels_last")
        return ops.add(patches, self.bias)  # (B, g_h, g_w, C)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *token_grid(input_shape[1:3], self.patch_size), self.hidden_dim)

    def get_config(self):
        return {**super().get_config(), "patch_size": self.patch_size, "hidden_dim": self.hidden_dim}


@keras.saving.register_keras_serializable("keras_mixer")
class MlpBlock(keras.layers.Layer):
    """Dense, GELU, Dense over the last axis: `(B, ..., D) -> (B, ..., D)`.

    All axes but the last are flattened into one around the two products: a rank-2 product with its bias and GELU is
    what TensorFlow's CPU kernels fuse; on rank-3 tensors they do not. On a TPU the flattening would rearrange memory,
    because 196 tokens do not fill its tiles; see `flattened`.

    Args:
        mlp_dim: hidden units between the two Dense layers.
        dropout_rate: share of units dropped after the GELU and after the second Dense, in [0, 1). The paper's models
            use 0; the official code has no dropout at all.
        exact_gelu: the erf form of GELU that timm's models are trained with, instead of the tanh form.
        **kwargs: `name`, `dtype` and the other arguments of `keras.layers.Layer`.

    Attributes:
        flattened: set to False, before the first call, for a TPU: the same values, a third less memory traffic.

    Returns:
        Called on a tensor: one of the same shape, compute dtype.

    Source: equation 1 of the paper; `MlpBlock` in vit_jax.

    Example:
        >>> tuple(keras_mixer.MlpBlock(256)(np.zeros((1, 512, 196), "float32")).shape)
        (1, 512, 196)
    """

    def __init__(self, mlp_dim, dropout_rate=0.0, exact_gelu=False, **kwargs):
        super().__init__(**kwargs)
        self.mlp_dim = mlp_dim
        self.dropout_rate = dropout_rate
        self.exact_gelu = exact_gelu
        self.flattened = True
        self.called = False  # once called, compiled functions may hold what it computed
        self.dense_0 = keras.layers.Dense(
            mlp_dim, kernel_initializer=KERNEL_INITIALIZER, dtype=self.dtype_policy, name="dense_0"
        )
        self.dropout_0 = keras.layers.Dropout(dropout_rate, dtype=self.dtype_policy, name="dropout_0")
        self.dropout_1 = keras.layers.Dropout(dropout_rate, dtype=self.dtype_policy, name="dropout_1")

    def build(self, input_shape):
        width = input_shape[-1]
        self.dense_1 = keras.layers.Dense(
            width, kernel_initializer=KERNEL_INITIALIZER, dtype=self.dtype_policy, name="dense_1"
        )
        self.dense_0.build((None, width))
        self.dense_1.build((None, self.mlp_dim))

    def call(self, x, training=None):
        self.called = True
        y = ops.reshape(x, (-1, x.shape[-1])) if self.flattened else x  # (rows, D)
        gelu = erf_gelu if self.exact_gelu else tanh_gelu
        y = self.dense_0(y)  # (rows, mlp_dim)
        with keras.name_scope("gelu"):  # behind "dense_0": TensorFlow sorts inputs by name before it looks what to fuse
            y = (for_training(gelu) if training else gelu)(y)
        y = self.dropout_0(y, training=training)
        y = self.dropout_1(self.dense_1(y), training=training)  # (rows, D)
        return ops.reshape(y, (-1, *x.shape[1:])) if self.flattened else y  # (B, ..., D)

    def use_exact_gelu(self):
        """Changes to the erf form of GELU; `predict`, `evaluate` and `fit` of models with this layer follow."""
        changed, self.exact_gelu = not self.exact_gelu, True
        if changed and self.called:
            retrace_models_with(self)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        sizes = {"mlp_dim": self.mlp_dim, "dropout_rate": self.dropout_rate}
        return {**super().get_config(), **sizes, "exact_gelu": self.exact_gelu}


@keras.saving.register_keras_serializable("keras_mixer")
class MixerBlock(keras.layers.Layer):
    """One Mixer block: mixes tokens, then channels, each with a residual: `(B, S, C) -> (B, S, C)`.

    `y = x + token_mixing(norm(x)^T)^T` and `out = y + channel_mixing(norm(y))`, where ^T swaps tokens and channels.

    Args:
        tokens_mlp_dim: hidden units D_S of the token-mixing MLP; independent of the number of tokens.
        channels_mlp_dim: hidden units D_C of the channel-mixing MLP.
        dropout_rate: dropout inside both MLPs, in [0, 1); see `MlpBlock`.
        drop_path_rates: probabilities, in [0, 1), of leaving out the token-mixing and the channel-mixing MLP of one
            example during training (stochastic depth). Survivors are divided by their probability, so the expectation
            equals the inference output; big_vision does not rescale.
        exact_gelu: the form of GELU in both MLPs; see `MlpBlock`.
        **kwargs: `name`, `dtype` and the other arguments of `keras.layers.Layer`.

    Attributes:
        rematerialize: set to True to compute the insides of both MLPs again for the gradient instead of keeping them:
            less memory, more time. Not with `dropout_rate`, whose masks would differ.

    Returns:
        Called on tokens: a tensor of the same shape, compute dtype.

    Source: equation 1 of the paper; `MixerBlock` in vit_jax. Stochastic depth: section 3.1 of the paper.

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
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.exact_gelu = exact_gelu
        self._rematerialize = False
        self.tokens_mlp_dim = tokens_mlp_dim
        self.channels_mlp_dim = channels_mlp_dim
        self.dropout_rate = dropout_rate
        self.drop_path_rates = tuple(drop_path_rates)
        self.input_spec = keras.layers.InputSpec(ndim=3)

        def norm(name):
            return LayerNorm(epsilon=LAYER_NORM_EPSILON, dtype=self.dtype_policy, name=name)

        def drop_path(rate, name):  # one draw for each example
            return keras.layers.Dropout(rate, noise_shape=(None, 1, 1), dtype=self.dtype_policy, name=name)

        self.layer_norm_0 = norm("layer_norm_0")
        self.token_mixing = MlpBlock(
            tokens_mlp_dim, dropout_rate, exact_gelu, dtype=self.dtype_policy, name="token_mixing"
        )
        self.drop_path_0 = drop_path(self.drop_path_rates[0], "drop_path_0")
        self.layer_norm_1 = norm("layer_norm_1")
        self.channel_mixing = MlpBlock(
            channels_mlp_dim, dropout_rate, exact_gelu, dtype=self.dtype_policy, name="channel_mixing"
        )
        self.drop_path_1 = drop_path(self.drop_path_rates[1], "drop_path_1")

    def build(self, input_shape):
        batch, tokens, channels = input_shape
        self.layer_norm_0.build(input_shape)
        self.token_mixing.build((batch, channels, tokens))
        self.layer_norm_1.build(input_shape)
        self.channel_mixing.build(input_shape)

    def use_exact_gelu(self):
        """Changes both MLPs to the erf form of GELU; see `MlpBlock.use_exact_gelu`."""
        self.exact_gelu = True
        self.token_mixing.use_exact_gelu()
        self.channel_mixing.use_exact_gelu()

    @property
    def rematerialize(self):
        return self._rematerialize

    @rematerialize.setter
    def rematerialize(self, value):
        changed, self._rematerialize = value != self._rematerialize, value
        if changed and self.token_mixing.called:
            retrace_models_with(self)

    def mix_tokens(self, x, training=None):
        """`(B, S, C) -> (B, S, C)`: what the token-mixing MLP adds to `x`, before stochastic depth."""
        y = ops.transpose(self.layer_norm_0(x), (0, 2, 1))  # (B, C, S)
        return ops.transpose(self.token_mixing(y, training=training), (0, 2, 1))  # (B, S, C)

    def mix_channels(self, x, training=None):
        """`(B, S, C) -> (B, S, C)`: what the channel-mixing MLP adds to `x`, before stochastic depth."""
        return self.channel_mixing(self.layer_norm_1(x), training=training)

    def call(self, x, training=None):
        def added(mix, x):  # stochastic depth stays outside: what is computed twice must not draw twice
            return keras.remat(lambda x: mix(x, training=training))(x) if self.rematerialize else mix(x, training)

        x = ops.add(x, self.drop_path_0(added(self.mix_tokens, x), training=training))
        return ops.add(x, self.drop_path_1(added(self.mix_channels, x), training=training))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "tokens_mlp_dim": self.tokens_mlp_dim,
            "channels_mlp_dim": self.channels_mlp_dim,
            "dropout_rate": self.dropout_rate,
            "drop_path_rates": self.drop_path_rates,
            "exact_gelu": self.exact_gelu,
        }

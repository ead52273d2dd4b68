"""ViT in plain Keras, for comparison with Mixer on the same backend: `(B, H, W, 3) -> (B, 1000)` logits.

Source: Dosovitskiy et al. 2020 (arXiv 2010.11929), Table 1; class token, learned positions, pre-norm, tanh GELU.
"""

import dataclasses
from functools import partial

import keras
from keras import layers, ops

CLASSES = 1000


@dataclasses.dataclass(frozen=True)
class VitSize:
    """Patch size in pixels, blocks, channels, heads; the MLP is four times as wide as the channels."""

    patch: int
    blocks: int
    channels: int
    heads: int

    def macs(self, side):
        """Multiply-accumulates of the matrix products in a forward pass, per image of `side` pixels."""
        patches = (side // self.patch) ** 2
        tokens = patches + 1
        block = 12 * tokens * self.channels**2 + 2 * tokens**2 * self.channels
        return patches * self.patch**2 * 3 * self.channels + self.blocks * block + self.channels * CLASSES


VITS = {
    "ViT-B/16": VitSize(16, 12, 768, 12),
    "ViT-L/16": VitSize(16, 24, 1024, 16),
    "ViT-tiny/4": VitSize(4, 2, 32, 2),  # for tests
}


class _TokensWithPositions(layers.Layer):
    """`(B, S, C) -> (B, S + 1, C)`: prepends a class token and adds learned positions."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), initializer="zeros")
        self.positions = self.add_weight(shape=(1, shape[1] + 1, shape[-1]), initializer="random_normal")

    def call(self, x):
        token = ops.broadcast_to(ops.cast(self.token, x.dtype), (ops.shape(x)[0], 1, x.shape[-1]))
        return ops.concatenate([token, x], axis=1) + ops.cast(self.positions, x.dtype)


def build_vit(name, side):
    """The ViT with a name of `VITS`, in the global dtype policy; pixels in [0, 255], logits in float32."""
    size = VITS[name]
    image = keras.Input((side, side, 3))
    x = layers.Rescaling(1 / 127.5, -1)(image)
    x = layers.Conv2D(size.channels, size.patch, strides=size.patch)(x)
    x = _TokensWithPositions()(layers.Reshape((-1, size.channels))(x))
    for _ in range(size.blocks):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = x + layers.MultiHeadAttention(size.heads, size.channels // size.heads)(y, y)
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        y = layers.Dense(4 * size.channels, activation=partial(keras.activations.gelu, approximate=True))(y)
        x = x + layers.Dense(size.channels)(y)
    x = layers.LayerNormalization(epsilon=1e-6)(x)[:, 0]
    return keras.Model(image, layers.Dense(CLASSES, dtype="float32")(x), name=name.replace("/", "_"))

"""The networks of the paper's comparisons at the size of small images: a Mixer, a ResNet and a ViT."""

import dataclasses

import keras
from keras import layers, ops

from keras_mixer.models import Mixer

NETWORKS = {"mixer": "Mixer", "resnet": "ResNet", "vit": "ViT"}  # names in figures


def build_network(name, recipe, classes, seed):
    """A newly initialized network `(B, H, W, 3) -> (B, classes)`: pixels in [0, 255] to logits.

    Args:
        name: a key of `NETWORKS`.
        recipe: sizes of the Mixer; patch size, blocks and channels of the ViT.
        classes: number of classes.
        seed: of the weights.
    """
    keras.utils.set_random_seed(seed)
    shape, sizes = recipe.input_shape(), recipe.architecture()
    if name == "resnet":
        return small_resnet(shape, classes)
    if name == "vit":
        return small_vit(shape, classes, sizes.patch_size, sizes.num_blocks, sizes.hidden_dim)
    return Mixer(**dataclasses.asdict(sizes), input_shape=shape, classes=classes, classifier_activation=None)


def on_its_own_terms(name, recipe):
    """The recipe of a network: XLA makes convolutions and attention slow on a CPU, so it is for the Mixer alone."""
    return dataclasses.replace(recipe, xla_on_cpu=recipe.xla_on_cpu if name == "mixer" else False)


def small_resnet(input_shape, classes):
    """A ResNet of keras.applications with 4 bottleneck blocks, 16 to 128 filters: `(B, H, W, 3)` -> logits.

    The builder of ResNet50 is not a public name of Keras, so this may need a change for a new version.
    """
    from keras.src.applications.resnet import ResNet, stack_residual_blocks_v1

    def stacks(x):
        x = stack_residual_blocks_v1(x, 16, 1, stride1=1, name="conv2")
        x = stack_residual_blocks_v1(x, 32, 1, name="conv3")
        x = stack_residual_blocks_v1(x, 64, 1, name="conv4")
        return stack_residual_blocks_v1(x, 128, 1, name="conv5")

    image = keras.Input(input_shape)
    scaled = layers.Rescaling(1 / 127.5, offset=-1)(image)
    body = ResNet(
        stacks,
        preact=False,
        use_bias=True,
        weights=None,
        include_top=False,
        pooling="avg",
        input_shape=input_shape,
        name="resnet",
        weights_name=None,
    )
    for layer in body.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.9  # with Keras's 0.99 the averages lag for hundreds of steps
    return keras.Model(image, layers.Dense(classes, name="head")(body(scaled)), name="small_resnet")


def small_vit(input_shape, classes, patch_size, blocks, channels):
    """A ViT without class token, heads of 32 channels, MLPs twice as wide as the channels: `(B, H, W, 3)` -> logits.

    Source: arXiv 2010.11929; mean over the tokens instead of a class token as in arXiv 2205.01580.
    """
    image = keras.Input(input_shape)
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.Conv2D(channels, patch_size, strides=patch_size, name="stem")(x)
    x = layers.Reshape((-1, channels))(x)
    x = _Positions(name="positions")(x)
    for i in range(blocks):
        y = layers.LayerNormalization(epsilon=1e-6, name=f"norm_{i}_0")(x)
        heads = max(channels // 32, 1)
        x = x + layers.MultiHeadAttention(heads, channels // heads, name=f"attention_{i}")(y, y)
        y = layers.LayerNormalization(epsilon=1e-6, name=f"norm_{i}_1")(x)
        y = layers.Dense(2 * channels, activation="gelu", name=f"mlp_{i}_0")(y)
        x = x + layers.Dense(channels, name=f"mlp_{i}_1")(y)
    x = layers.LayerNormalization(epsilon=1e-6, name="norm")(x)
    return keras.Model(image, layers.Dense(classes, name="head")(ops.mean(x, axis=1)), name="small_vit")


@keras.saving.register_keras_serializable("keras_mixer")
class _Positions(layers.Layer):
    """`(B, S, C) -> (B, S, C)`: adds learned positions."""

    def build(self, shape):
        self.positions = self.add_weight(shape=shape[1:], initializer=keras.initializers.RandomNormal(stddev=0.02))

    def call(self, x):
        return x + ops.cast(self.positions, x.dtype)

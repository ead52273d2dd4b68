"""The networks of the comparisons at the size of small images: a Mixer, a ResNet and a ViT."""

import dataclasses
from pathlib import Path

import keras
from keras import layers, ops

import keras_mixer

NETWORKS = {"mixer": "Mixer", "resnet": "ResNet", "vit": "ViT"}  # names in figures


def build_network(name, recipe, classes, seed):
    """A new network of the sizes of a recipe, from pixels in [0, 255] to logits: `(B, H, W, 3) -> (B, classes)`."""
    keras.utils.set_random_seed(seed)
    shape, sizes = recipe.input_shape(), recipe.architecture()
    if name == "resnet":
        return small_resnet(shape, classes)
    if name == "vit":
        return small_vit(shape, classes, sizes.patch_size, sizes.num_blocks, sizes.hidden_dim)
    options = {"input_shape": shape, "classes": classes, "classifier_activation": None}
    return keras_mixer.Mixer(**dataclasses.asdict(sizes), **options)


def small_resnet(input_shape, classes):
    """A ResNet with 4 bottleneck blocks of 16 to 128 filters: `(B, H, W, 3) -> (B, classes)`, logits.

    Source: arXiv 1512.03385, as keras.applications builds ResNet50.
    """

    def normalized(x, filters, kernel, stride=1):
        x = layers.Conv2D(filters, kernel, stride, padding="same")(x)
        return layers.BatchNormalization(momentum=0.9, epsilon=1.001e-5)(x)  # 0.99 lags for hundreds of steps

    def bottleneck(x, filters, stride):
        y = layers.ReLU()(normalized(x, filters, 1, stride))
        y = layers.ReLU()(normalized(y, filters, 3))
        shortcut = normalized(x, 4 * filters, 1, stride)
        return layers.ReLU()(layers.Add()([shortcut, normalized(y, 4 * filters, 1)]))

    image = keras.Input(input_shape)
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.ReLU()(normalized(x, 64, 7, 2))
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    for filters, stride in ((16, 1), (32, 2), (64, 2), (128, 2)):
        x = bottleneck(x, filters, stride)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(classes, name="head")(x), name="small_resnet")


def small_vit(input_shape, classes, patch_size, blocks, channels):
    """A ViT with heads of 32 channels and MLPs twice as wide as the channels: `(B, H, W, 3) -> (B, classes)`, logits.

    Source: arXiv 2010.11929; mean over the tokens instead of a class token as in arXiv 2205.01580.
    """
    image = keras.Input(input_shape)
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.Conv2D(channels, patch_size, strides=patch_size, name="stem")(x)
    x = Positions(name="positions")(layers.Reshape((-1, channels))(x))  # (B, S, C)
    for i in range(blocks):
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        heads = max(channels // 32, 1)
        x = x + layers.MultiHeadAttention(heads, channels // heads, name=f"attention_{i}")(y, y)
        y = layers.LayerNormalization(epsilon=1e-6)(x)
        x = x + layers.Dense(channels)(layers.Dense(2 * channels, activation="gelu")(y))
    x = ops.mean(layers.LayerNormalization(epsilon=1e-6)(x), axis=1)  # (B, C)
    return keras.Model(image, layers.Dense(classes, name="head")(x), name="small_vit")


@keras.saving.register_keras_serializable("experiments")
class Positions(layers.Layer):
    """Adds learned positions: `(B, S, C) -> (B, S, C)`."""

    def build(self, shape):
        """One vector for each token."""
        self.positions = self.add_weight(shape=shape[1:], initializer=keras.initializers.RandomNormal(stddev=0.02))

    def call(self, x):
        """The tokens with their positions."""
        return x + ops.cast(self.positions, x.dtype)


def stem_and_blocks(model):
    """The PatchEmbed of a Mixer, and the list of its MixerBlocks."""
    kinds = keras_mixer.PatchEmbed | keras_mixer.MixerBlock
    stem, *blocks = (layer for layer in model.layers if isinstance(layer, kinds))
    return stem, blocks


def open_model(path):
    """The Keras model of a finished run or a `.keras` file."""
    path = Path(path)
    return keras.saving.load_model(path / "model.keras" if path.is_dir() else path)

"""Token mixing that is not shared by all channels: one MLP for each group of channels, or for each channel.

Source: appendix A.1 of arXiv 2105.01601: a token-mixing MLP for each channel brought no gain at great cost on
JFT-300M. MLPs for groups of channels are ours: the paper's grouping concatenates channels before one MLP.
"""

import functools
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import tyro
from keras import ops

import keras_mixer
from experiments.training import Training, print_table


@keras.saving.register_keras_serializable("experiments")
class GroupedTokenMlp(keras.layers.Layer):
    """One token-mixing MLP of D_S = `mlp_dim` units for each of G groups of adjacent channels: `(B, S, C) -> same`."""

    def __init__(self, groups, mlp_dim, **kwargs):
        super().__init__(**kwargs)
        self.groups = groups
        self.mlp_dim = mlp_dim

    def build(self, input_shape):
        """Weights of all groups, stacked along the first axis."""
        _, tokens, channels = input_shape
        if channels % self.groups:
            raise ValueError(f"{channels} channels cannot be split into {self.groups} equal groups.")

        def initialize(shape, dtype=None):  # a new initializer draws new values: each group starts as its own layer
            return ops.stack([keras.initializers.LecunNormal()(shape[1:], dtype) for _ in range(shape[0])])

        def dense(inputs, outputs):
            kernel = self.add_weight(shape=(self.groups, inputs, outputs), initializer=initialize)
            return kernel, self.add_weight(shape=(self.groups, outputs), initializer="zeros")

        self.kernel_0, self.bias_0 = dense(tokens, self.mlp_dim)
        self.kernel_1, self.bias_1 = dense(self.mlp_dim, tokens)

    def call(self, x):
        """Mixes the tokens of each channel with the MLP of its group."""
        _, tokens, channels = x.shape
        y = ops.reshape(x, (-1, tokens, self.groups, channels // self.groups))  # (B, S, G, C / G)
        y = ops.einsum("bsgc,gsd->bgcd", y, self.kernel_0) + self.bias_0[:, None]  # (B, G, C / G, D_S)
        y = ops.einsum("bgcd,gds->bsgc", ops.gelu(y, approximate=True), self.kernel_1)  # (B, S, G, C / G)
        return ops.reshape(y + ops.transpose(self.bias_1)[..., None], (-1, tokens, channels))  # (B, S, C)


def untied_mixer(variant, groups, input_shape, classes):
    """A Mixer with `groups` token-mixing MLPs in each block: pixels `(B, H, W, channels)` -> logits `(B, classes)`."""

    def norm(x):
        return keras.layers.LayerNormalization(epsilon=1e-6)(x)

    image = keras.Input(input_shape)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = keras_mixer.PatchEmbed(variant.patch_size, variant.hidden_dim, name="stem")(x)
    x = keras.layers.Reshape((-1, variant.hidden_dim))(x)  # (B, S, C)
    for _ in range(variant.num_blocks):
        x = keras.layers.Add()([x, GroupedTokenMlp(groups, variant.tokens_mlp_dim)(norm(x))])
        x = keras.layers.Add()([x, keras_mixer.MlpBlock(variant.channels_mlp_dim)(norm(x))])
    x = keras.layers.GlobalAveragePooling1D()(norm(x))  # (B, C)
    logits = keras.layers.Dense(classes, kernel_initializer="zeros", name="head")(x)
    return keras.Model(image, logits, name=f"mixer_{groups}_groups")


def untied_parameters(variant, groups, input_shape=(224, 224, 3), classes=1000):
    """Number of parameters of `untied_mixer`, by formula."""
    tokens = int(np.prod(np.floor_divide(input_shape[:2], variant.patch_size)))
    token_mlp = 2 * tokens * variant.tokens_mlp_dim + variant.tokens_mlp_dim + tokens
    return variant.parameters(input_shape, classes) + variant.num_blocks * (groups - 1) * token_mlp


def figure_of(results, parameters):
    """Final test accuracy over the number of parameters: a dot for each seed, a dash for their mean."""
    figure, ax = plt.subplots(figsize=(6, 4.2))
    for count, (name, curves) in zip(parameters, results.items(), strict=True):
        finals = 100 * np.array(curves)[:, -1]
        (dots,) = ax.plot([count] * len(finals), finals, "o", alpha=0.7, label=name)
        ax.plot(count, finals.mean(), "_", color=dots.get_color(), markersize=22, markeredgewidth=2)
    ax.set(xscale="log", xlabel="parameters", ylabel="test accuracy, %")
    ax.set_xticks(parameters, [f"{count:,}" for count in parameters], rotation=30, ha="right")
    ax.minorticks_off()
    ax.legend()
    return figure


def main(
    output: Path,
    training: Training = Training(),  # noqa: B008 - frozen
    groups: tuple[int, ...] = (1, 4, 96),
):
    """Appendix A: train Mixers whose token-mixing MLPs are shared by all channels, by groups of them, or not at all.

    Args:
        output: the .png or .svg file; the results go to a .jsonl file next to it, so that the experiment resumes.
        training: of all networks.
        groups: numbers of MLPs per block; 1 is the paper's Mixer, the number of channels gives one per channel.
    """
    sizes = training.settings.architecture(), training.settings.input_shape(), len(training.source.class_names)

    def build(seed, count):
        keras.utils.set_random_seed(seed)
        return untied_mixer(sizes[0], count, *sizes[1:])

    names = {count: f"{count} groups of channels" if count > 1 else "tied (the paper's Mixer)" for count in groups}
    contestants = {name: functools.partial(build, count=count) for count, name in names.items()}
    results = training.compare(output.with_suffix(".jsonl"), contestants)
    print("\nParameters, and those of the published sizes at 224 px with 1000 classes:")
    own = [untied_parameters(sizes[0], count, *sizes[1:]) for count in groups]
    print_table(names.values(), [[f"{count:,}" for count in own]])
    rows = [
        (name, *(f"{untied_parameters(variant, count):,}" for count in (1, 4, variant.hidden_dim)))
        for name, variant in keras_mixer.VARIANTS.items()
    ]
    print_table(("variant", "tied", "4 groups", "one per channel"), rows)
    figure_of(results, own).savefig(output)


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.OmitArgPrefixes,))

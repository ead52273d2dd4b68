"""Token mixing that is not shared by all channels: one MLP per group of channels, or per channel.

Source: appendix A.1 of arXiv 2105.01601: a token MLP for each channel brought no gain at great cost, G groups up to
1 to 2 % in 5-shot accuracy, on JFT-300M. The layer is not in `keras_mixer.layers`: only this experiment uses it.
"""

import keras
from keras import ops

from keras_mixer.fast_cpu import gelu
from keras_mixer.inspect.figures import COLOURS, canvas
from keras_mixer.layers import KERNEL_INITIALIZER, LAYER_NORM_EPSILON, MlpBlock, PatchEmbed
from keras_mixer.paper.curves import train_curve
from keras_mixer.paper.resumable_results import ResumableResults
from keras_mixer.variants import Variant


@keras.saving.register_keras_serializable("keras_mixer")
class GroupedTokenMlp(keras.layers.Layer):
    """One token MLP for each of G groups of adjacent channels: `(B, S, C) -> (B, S, C)`.

    Args:
        groups: number G of groups; 1 is the paper's Mixer, C gives one token MLP per channel.
        mlp_dim: hidden units D_S of each MLP.
        **kwargs: those of `keras.layers.Layer`.

    Raises:
        ValueError: when built for a number of channels that the groups do not divide.
    """

    def __init__(self, groups, mlp_dim, **kwargs):
        super().__init__(**kwargs)
        self.groups = groups
        self.mlp_dim = mlp_dim

    def build(self, input_shape):
        """Weights of all groups, stacked along the first axis."""
        _, tokens, channels = input_shape
        if channels % self.groups:
            raise ValueError(f"{channels} channels cannot be split into {self.groups} equal groups.")

        def weight(name, shape, initializer):
            def initialize(shape, dtype=None):  # a new initializer draws new values: each group starts as its own layer
                return ops.stack([keras.initializers.get(initializer)(shape[1:], dtype) for _ in range(shape[0])])

            return self.add_weight(shape=(self.groups, *shape), initializer=initialize, name=name)

        self.kernel_0 = weight("kernel_0", (tokens, self.mlp_dim), KERNEL_INITIALIZER)
        self.bias_0 = weight("bias_0", (self.mlp_dim,), "zeros")
        self.kernel_1 = weight("kernel_1", (self.mlp_dim, tokens), KERNEL_INITIALIZER)
        self.bias_1 = weight("bias_1", (tokens,), "zeros")

    def call(self, x):
        """Mixes the tokens of each channel with the MLP of its group."""
        _, tokens, channels = x.shape
        y = ops.reshape(x, (-1, tokens, self.groups, channels // self.groups))  # (B, S, G, C / G)
        y = ops.einsum("bsgc,gsd->bgcd", y, self.kernel_0) + self.bias_0[:, None]  # (B, G, C / G, D_S)
        y = ops.einsum("bgcd,gds->bsgc", gelu(y), self.kernel_1)  # (B, S, G, C / G)
        y = y + ops.transpose(self.bias_1)[..., None]
        return ops.reshape(y, (-1, tokens, channels))

    def compute_output_shape(self, input_shape):
        """The same shape."""
        return input_shape

    def get_config(self):
        """The arguments."""
        return {**super().get_config(), "groups": self.groups, "mlp_dim": self.mlp_dim}


def untied_mixer(variant: Variant, groups, input_shape, classes):
    """A Mixer with multiple token MLPs per block: pixels `(B, H, W, channels)` -> logits `(B, classes)`.

    Args:
        variant: sizes of the model.
        groups: number of token MLPs per block, a divisor of the number of channels.
        input_shape: `(height, width, channels)` in pixels.
        classes: number of outputs.

    Raises:
        ValueError: the groups do not divide the channels, or the patch does not divide the image.
    """

    def norm():
        return keras.layers.LayerNormalization(epsilon=LAYER_NORM_EPSILON)

    grid = variant.grid(input_shape)
    image = keras.Input(input_shape)
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = PatchEmbed(variant.patch_size, variant.hidden_dim, name="stem")(x)
    x = keras.layers.Reshape((grid[0] * grid[1], variant.hidden_dim))(x)
    for i in range(variant.num_blocks):
        mixed = GroupedTokenMlp(groups, variant.tokens_mlp_dim, name=f"token_mixing_{i}")(norm()(x))
        x = keras.layers.Add()([x, mixed])
        x = keras.layers.Add()([x, MlpBlock(variant.channels_mlp_dim, name=f"channel_mixing_{i}")(norm()(x))])
    x = keras.layers.GlobalAveragePooling1D()(norm()(x))
    logits = keras.layers.Dense(classes, kernel_initializer="zeros", name="head")(x)
    return keras.Model(image, logits, name=f"mixer_{groups}_groups")


def untied_parameters(variant: Variant, groups, input_shape=(224, 224, 3), classes=1000) -> int:
    """Number of parameters of `untied_mixer`, by formula."""
    rows, columns = variant.grid(input_shape)
    token_mlp = 2 * rows * columns * variant.tokens_mlp_dim + variant.tokens_mlp_dim + rows * columns
    return variant.parameters(input_shape, classes) + variant.num_blocks * (groups - 1) * token_mlp


def untied_experiment(recipe, source, file, *, groups, steps, points=10, seeds=(0, 1, 2), log=print):
    """Trains Mixers that differ only in the number of token MLPs per block.

    Args:
        recipe: sizes, augmentation and optimization.
        source: the data.
        file: JSON file of the results; finished trainings in it are not repeated.
        groups: numbers of token MLPs per block; 1 is the paper's Mixer.
        steps: optimizer steps of each training.
        points: number of measurements per training.
        seeds: one training each.
        log: called with a line of text after each training.

    Returns:
        {groups: `(seeds, points)` test accuracies}.

    Raises:
        ValueError: the file has other settings, or a number of groups does not divide the channels.
    """
    shape, classes = recipe.input_shape(), len(source.class_names)
    settings = {"recipe": recipe.name, "data": source.name, "training_images": source.train.size, "steps": steps}
    stored = ResumableResults(file, settings | {"points": points})
    results: dict[int, list] = {count: [] for count in groups}
    for seed in seeds:
        for count in groups:

            def train(seed=seed, count=count):
                keras.utils.set_random_seed(seed)
                model = untied_mixer(recipe.architecture(), count, shape, classes)
                return train_curve(model, recipe, source, steps=steps, points=points, seed=seed)

            curve = stored.result(f"{count} groups, seed {seed}", train)
            results[count].append(curve)
            log(f"{count} groups, seed {seed}: {curve[-1]:.2%}")
    return results


def untied_figure(results, parameters):
    """Final test accuracy over the number of parameters, one dot per seed.

    Args:
        results: of `untied_experiment`.
        parameters: {groups: number of parameters}.
    """
    figure, ax = canvas(6.0, 4.2)
    for color, (count, curves) in zip(COLOURS * 9, results.items(), strict=False):
        label = "tied (the paper's Mixer)" if count == 1 else f"{count} groups of channels"
        finals = [curve[-1] for curve in curves]
        ax.plot([parameters[count]] * len(finals), finals, "o", color=color, alpha=0.7, label=label)
        ax.plot(parameters[count], sum(finals) / len(finals), "_", color=color, markersize=22, markeredgewidth=2)
    ax.set(xscale="log", xlabel="parameters", ylabel="test accuracy")
    ticks = [parameters[count] for count in results]
    ax.set_xticks(ticks, [f"{tick:,}" for tick in ticks], rotation=30, ha="right")
    ax.minorticks_off()
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return figure

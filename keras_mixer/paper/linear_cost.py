"""How cost grows with the image size: a Mixer block with fixed D_S and an attention block of the same width.

Source: section 2 of arXiv 2105.01601 ("linear in the number of input patches, unlike ViT").
"""

import dataclasses

import keras
import numpy as np

from keras_mixer.inspect.cost import traced_macs
from keras_mixer.inspect.figures import COLOURS, canvas
from keras_mixer.inspect.speed import throughput, time_calls
from keras_mixer.layers import MixerBlock, MlpBlock

SIDES = (112, 224, 448, 896)  # pixels
TOKENS_PER_BATCH = 3136  # for all image sizes


@dataclasses.dataclass(frozen=True)
class LinearCost:
    """The result of `linear_cost`.

    Attributes:
        tokens: number of patches of each image size.
        images_per_second: {block: one value per image size}.
        macs: {block: exact multiply-accumulates of one image in the forward pass, one value per image size}.
    """

    tokens: tuple[int, ...]
    images_per_second: dict[str, tuple[float, ...]]
    macs: dict[str, tuple[int, ...]]

    def slopes(self) -> dict[str, float]:
        """{block: slope of log(seconds per image) over log(tokens), by least squares}; 1 is linear cost."""
        x = np.log(self.tokens)
        return {name: float(np.polyfit(x, -np.log(values), 1)[0]) for name, values in self.images_per_second.items()}

    def macs_slopes(self) -> dict[str, float]:
        """The same for the exact multiply-accumulates."""
        x = np.log(self.tokens)
        return {name: float(np.polyfit(x, np.log(values), 1)[0]) for name, values in self.macs.items()}


def linear_cost(
    sides=SIDES,
    *,
    patch_size=16,
    hidden_dim=768,
    tokens_mlp_dim=384,
    channels_mlp_dim=3072,
    heads=12,
    seconds=4.0,
    training=False,
):
    """Measures both blocks at multiple image sizes.

    Args:
        sides: of square images in pixels.
        patch_size: side of a patch in pixels.
        hidden_dim: channels C of both blocks.
        tokens_mlp_dim: D_S of the Mixer block at every size. (The paper's own rule for fine-tuning at higher resolution
            multiplies D_S, and the cost of its token MLP is then quadratic in the tokens.)
        channels_mlp_dim: hidden units of the channel MLP of both blocks.
        heads: number of attention heads.
        seconds: duration of each measurement.
        training: measure training steps instead of forward passes.

    Returns:
        A `LinearCost`.

    Raises:
        ValueError: the patch does not divide a side.
    """
    wrong = [side for side in sides if side % patch_size]
    if wrong:
        raise ValueError(f"Patches of {patch_size} px do not divide sides of {wrong} px.")
    tokens = tuple((side // patch_size) ** 2 for side in sides)
    speeds: dict[str, list[float]] = {"Mixer": [], "attention": []}
    macs: dict[str, list[int]] = {"Mixer": [], "attention": []}
    for count in tokens:
        batch_size = max(1, TOKENS_PER_BATCH // count)
        for name, model in (
            ("Mixer", _mixer_block(count, hidden_dim, tokens_mlp_dim, channels_mlp_dim)),
            ("attention", _attention_block(count, hidden_dim, heads, channels_mlp_dim)),
        ):
            if training:
                speeds[name].append(_trained_per_second(model, batch_size, seconds))
            else:
                (measured,) = throughput(model, (batch_size,), seconds)
                speeds[name].append(measured.images_per_second)
            macs[name].append(traced_macs(model))
    return LinearCost(
        tokens, {name: tuple(v) for name, v in speeds.items()}, {name: tuple(v) for name, v in macs.items()}
    )


def _trained_per_second(model, batch_size, seconds):
    """Images per second of the fastest training step."""
    model.compile(keras.optimizers.SGD(1e-6), "mse")  # Keras compiles with XLA everywhere but on TensorFlow's CPUs
    tokens = np.random.default_rng(0).normal(size=(batch_size, *model.input_shape[1:])).astype(np.float32)

    def step():
        model.train_on_batch(tokens, tokens)

    for _ in range(2):
        step()
    return batch_size / min(time_calls(step, seconds))


def linear_cost_figure(result: LinearCost):
    """Images per second over the number of patches, log-log, with the fitted slopes."""
    figure, ax = canvas(6.0, 4.4)
    for colour, style, (name, values) in zip(COLOURS, ("o-", "s--"), result.images_per_second.items(), strict=False):
        label = f"{name} block: seconds per image grow as tokens^{result.slopes()[name]:.2f}"
        ax.plot(result.tokens, values, style, color=colour, label=label)
    ax.set(xscale="log", yscale="log", xlabel="patches per image", ylabel="images per second")
    ax.set_xticks(result.tokens, [str(count) for count in result.tokens])
    ax.minorticks_off()
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return figure


def _mixer_block(tokens, hidden_dim, tokens_mlp_dim, channels_mlp_dim):
    x = keras.Input((tokens, hidden_dim))
    return keras.Model(x, MixerBlock(tokens_mlp_dim, channels_mlp_dim)(x))


def _attention_block(tokens, hidden_dim, heads, channels_mlp_dim):
    """A ViT block: attention, then the channel MLP of the Mixer block."""
    tokens_in = keras.Input((tokens, hidden_dim))
    y = keras.layers.LayerNormalization(epsilon=1e-6)(tokens_in)
    y = keras.layers.MultiHeadAttention(heads, hidden_dim // heads)(y, y)
    x = keras.layers.Add()([tokens_in, y])
    y = MlpBlock(channels_mlp_dim)(keras.layers.LayerNormalization(epsilon=1e-6)(x))
    return keras.Model(tokens_in, keras.layers.Add()([x, y]))

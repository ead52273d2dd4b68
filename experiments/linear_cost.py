"""How cost grows with the image size: a Mixer block with fixed D_S and an attention block of the same width.

Source: section 2 of arXiv 2105.01601 ("linear in the number of input patches, unlike ViT").
"""

from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import tyro

import keras_mixer
from benchmarks.protocol import time_calls
from experiments.training import print_table

PATCH_SIZE = 16
TOKENS_PER_BATCH = 3136  # for all image sizes


def mixer_block(tokens, channels, tokens_mlp_dim):
    """A Mixer block `(B, S, C) -> (B, S, C)`, and its multiply-accumulates for one image."""
    x = keras.Input((tokens, channels))
    block = keras.Model(x, keras_mixer.MixerBlock(tokens_mlp_dim, 4 * channels)(x))
    return block, 2 * tokens * channels * (tokens_mlp_dim + 4 * channels)


def attention_block(tokens, channels):
    """A ViT block: attention, then the channel MLP of the Mixer block; and its multiply-accumulates for one image."""
    x = keras.Input((tokens, channels))
    y = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    y = keras.layers.Add()([x, keras.layers.MultiHeadAttention(channels // 64, 64)(y, y)])
    z = keras_mixer.MlpBlock(4 * channels)(keras.layers.LayerNormalization(epsilon=1e-6)(y))
    macs = tokens * channels * (4 * channels + 2 * tokens + 8 * channels)
    return keras.Model(x, keras.layers.Add()([y, z])), macs


def examples_per_second(model, batch_size, seconds, training=False):
    """Speed of the fastest forward pass, or training step, with the examples already in memory."""
    x = np.random.default_rng(0).normal(size=(batch_size, *model.input_shape[1:])).astype(np.float32)
    if training:
        model.compile(keras.optimizers.SGD(1e-6), "mse")

    def call():
        return model.train_on_batch(x, x) if training else model.predict_on_batch(x)

    for _ in range(2):
        call()
    return batch_size / min(time_calls(call, seconds))


def slope(tokens, cost):
    """Slope of log(cost) over log(tokens); 1 is linear cost."""
    return float(np.polyfit(np.log(tokens), np.log(cost), 1)[0])


def figure_of(tokens, speeds):
    """Time per image over the number of patches, log-log."""
    figure, ax = plt.subplots(figsize=(6, 4.2))
    for style, (name, values) in zip(("o-", "s-"), speeds.items(), strict=True):
        times = 1000 / np.array(values)
        ax.plot(tokens, times, style, label=f"{name} block, slope {slope(tokens, times):.2f}")
    linear = np.array(tokens) / tokens[0] * 1000 / speeds["Mixer"][0]
    ax.plot(tokens, linear, ":", color="gray", label="proportional, slope 1")
    ax.set(xscale="log", yscale="log", xlabel="patches per image", ylabel="time per image, ms")
    ax.set_xticks(tokens, [str(count) for count in tokens])
    ax.minorticks_off()
    ax.legend()
    return figure


def main(
    output: Path,
    sides: tuple[int, ...] = (112, 224, 448, 896),
    hidden_dim: int = 768,
    tokens_mlp_dim: int = 384,
    seconds: float = 4.0,
    training: bool = False,
):
    """Section 2: how the cost of a Mixer block (D_S fixed) and of an attention block grows with the number of patches.

    (The paper's rule for higher resolution multiplies D_S, and the cost of token mixing is then quadratic.)

    Args:
        output: the .png or .svg file.
        sides: of square images in pixels, multiples of the patch of 16.
        hidden_dim: channels of both blocks, a multiple of 64.
        tokens_mlp_dim: hidden units D_S of the Mixer block, the same at every image size.
        seconds: duration of each measurement.
        training: measure training steps instead of forward passes.
    """
    tokens = [(side // PATCH_SIZE) ** 2 for side in sides]
    speeds, macs = {"Mixer": [], "attention": []}, {"Mixer": [], "attention": []}
    for count in tokens:
        blocks = mixer_block(count, hidden_dim, tokens_mlp_dim), attention_block(count, hidden_dim)
        for name, (block, exact) in zip(speeds, blocks, strict=True):
            batch_size = max(1, TOKENS_PER_BATCH // count)
            speeds[name].append(examples_per_second(block, batch_size, seconds, training))
            macs[name].append(exact)
    rows = []
    for name, values in speeds.items():
        slopes = slope(tokens, 1 / np.array(values)), slope(tokens, macs[name])
        rows.append((name, *(f"{speed:.2f}" for speed in values), *(f"{power:.3f}" for power in slopes)))
    print_table(("images/s; patches:", *tokens, "slope of time", "slope of multiply-accumulates"), rows)
    figure_of(tokens, speeds).savefig(output)


if __name__ == "__main__":
    tyro.cli(main)

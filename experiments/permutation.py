"""Fig 4: a Mixer and a ResNet on images whose pixels are all shuffled in one fixed way.

Source: section 3.4 ("invariance to input permutations") of arXiv 2105.01601.
"""

import functools
from pathlib import Path
from typing import Literal

import keras
import matplotlib.pyplot as plt
import numpy as np
import tyro

from experiments.networks import NETWORKS, build_network, stem_and_blocks
from experiments.training import Training

INPUTS = ("original", "patches and pixels inside", "all pixels")


def orders(image_size, patch_size, seed):
    """New position -> old position, of the patches `(S,)` and of the pixels within every patch."""
    generator = np.random.default_rng(seed)
    grid = [side // patch for side, patch in zip(image_size, patch_size, strict=True)]
    return generator.permutation(np.prod(grid)), generator.permutation(np.prod(patch_size))


def shuffle_patches(image_size, patch_size, seed):
    """`(H W,)`: new position -> old position. Shuffles the patches, and the pixels within all patches in one order.

    Both sizes are `(height, width)` in pixels; the patch divides the image.
    """
    order, inner = orders(image_size, patch_size, seed)
    (height, width), (rows, columns) = patch_size, np.floor_divide(image_size, patch_size)
    places = np.arange(np.prod(image_size)).reshape(rows, height, columns, width).transpose(0, 2, 1, 3)
    moved = places.reshape(len(order), len(inner))[order][:, inner]  # (S, pixels of a patch)
    return moved.reshape(rows, columns, height, width).transpose(0, 2, 1, 3).ravel()


def permuted(images, permutation):
    """`(B, H, W, channels) -> (B, H, W, channels)`: arrays, or the symbolic images of a functional model."""
    shape = images.shape
    flat = keras.ops.reshape(images, (-1, len(permutation), shape[-1]))
    return keras.ops.reshape(keras.ops.take(flat, permutation, axis=1), (-1, *shape[1:]))


def permuted_mixer(model, seed):
    """The Mixer whose logits on images after `shuffle_patches` are those of `model` on the images before.

    The rows of the stem's kernel are permuted like the pixels in a patch; the rows of every first token-mixing kernel,
    and the columns and biases of every second one, like the patches.
    """
    new = keras.models.clone_model(model)
    new.set_weights(model.get_weights())
    stem, blocks = stem_and_blocks(new)
    order, inner = orders(model.input_shape[1:3], stem.patch_size, seed)
    kernel, bias = stem.get_weights()
    stem.set_weights([kernel.reshape(len(inner), -1)[inner].reshape(kernel.shape), bias])
    for block in blocks:
        kernel_0, bias_0, kernel_1, bias_1 = block.token_mixing.get_weights()
        block.token_mixing.set_weights([kernel_0[order], bias_0, kernel_1[:, order], bias_1[order]])
    return new


def on_shuffled(network, kind, patch_size, seed):
    """The network with the pixels of one of `INPUTS` in front of it."""
    if kind == "original":
        return network
    size = network.input_shape[1:3]
    permutation = shuffle_patches(size, (patch_size, patch_size), seed)
    if kind == "all pixels":
        permutation = np.random.default_rng(seed).permutation(permutation)
    image = keras.Input(network.input_shape[1:])
    return keras.Model(image, network(permuted(image, permutation)), name=network.name)


def figure_of(results, steps):
    """Test accuracy along the training, one panel a network: mean over the seeds, minimum to maximum shaded."""
    networks = dict.fromkeys(name.split(", ")[0] for name in results)
    figure, axes = plt.subplots(1, len(networks), figsize=(5 * len(networks), 4), squeeze=False, sharey=True)
    for ax, network in zip(axes[0], networks, strict=True):
        for style, kind in zip(("-", "--", ":"), INPUTS, strict=True):
            accuracies = 100 * np.array(results[f"{network}, {kind}"])  # (seeds, points)
            x = steps // accuracies.shape[1] * np.arange(1, accuracies.shape[1] + 1)
            ax.plot(x, accuracies.mean(0), style, label=kind, linewidth=2)
            ax.fill_between(x, accuracies.min(0), accuracies.max(0), alpha=0.2, linewidth=0)
        ax.set(title=network, xlabel="step")
    axes[0, 0].set_ylabel("test accuracy, %")
    axes[0, -1].legend(loc="lower right")
    return figure


def main(
    output: Path,
    training: Training = Training(image_size=32, patch_size=8),  # noqa: B008 - frozen
    networks: tuple[Literal["mixer", "resnet"], ...] = ("mixer", "resnet"),
):
    """Fig 4: train a Mixer and a ResNet on original images, with shuffled patches, and with all pixels shuffled.

    Args:
        output: the .png or .svg file; the results go to a .jsonl file next to it, so that the experiment resumes.
        training: of all networks; the seed also determines the permutation.
        networks: networks to train.
    """

    def build(seed, network, kind):
        built = build_network(network, training.settings, len(training.source.class_names), seed)
        return on_shuffled(built, kind, training.settings.patch_size, seed)

    contestants = {
        f"{NETWORKS[network]}, {kind}": functools.partial(build, network=network, kind=kind)
        for network in networks
        for kind in INPUTS
    }
    figure_of(training.compare(output.with_suffix(".jsonl"), contestants), training.steps).savefig(output)


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.OmitArgPrefixes,))

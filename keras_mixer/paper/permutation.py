"""Fig 4 of the paper: accuracy of a network when the pixels of all images are shuffled in one fixed way.

Source: section 4 ("invariance to input permutations") of arXiv 2105.01601.
"""

import keras
import numpy as np

from keras_mixer.anatomy import anatomy, rebuild
from keras_mixer.inspect.figures import canvas
from keras_mixer.paper.curves import draw_curves, steps_of, train_curve
from keras_mixer.paper.networks import NETWORKS, build_network, on_its_own_terms
from keras_mixer.paper.resumable_results import ResumableResults
from keras_mixer.variants import as_pair, token_grid

INPUTS = ("original", "patches and pixels inside", "all pixels")
COMPARED = ("mixer", "resnet")


def shuffle_patches(image_size, patch_size, seed):
    """`(H W,)`: new position -> old position. Shuffles the patches, and the pixels within all patches in one order.

    Args:
        image_size: `(height, width)` in pixels.
        patch_size: side of a patch in pixels, or `(height, width)`.
        seed: of the permutation.

    Raises:
        ValueError: the patch does not divide the image.
    """
    order, inner = _orders(image_size, patch_size, seed)
    patch = as_pair(patch_size)
    grid = token_grid(image_size, patch)
    positions = _by_patch(np.arange(image_size[0] * image_size[1]).reshape(image_size), grid, patch)  # (S, pixels)
    shuffled = positions[order][:, inner]
    return _by_row(shuffled, grid, patch).ravel()


def shuffle_pixels(image_size, seed):
    """`(H W,)`: new position -> old position, any pixel to any position."""
    return np.random.default_rng(seed).permutation(image_size[0] * image_size[1])


def permuted(images, permutation):
    """`(B, H, W, channels) -> (B, H, W, channels)`: the pixels permuted, each with all its channels.

    NumPy arrays, tensors, or the symbolic images of a functional model: then it is a part of the model.
    """
    shape = images.shape
    flat = keras.ops.reshape(images, (-1, len(permutation), shape[-1]))
    moved = keras.ops.take(flat, permutation, axis=1)
    return keras.ops.reshape(moved, (-1, *shape[1:]))


def permuted_mixer(model, seed):
    """The Mixer whose logits on images after `shuffle_patches` are those of `model` on the images before.

    The rows of the stem's kernel are permuted like the pixels in a patch; the rows of every first token-mixing kernel,
    and the columns and biases of every second one, like the patches.

    Args:
        model: a Mixer of this package; it is not changed.
        seed: that of `shuffle_patches`.
    """
    patch = anatomy(model).stem.patch_size
    order, inner = _orders(model.input_shape[1:3], patch, seed)
    new = rebuild(model)
    new.set_weights(model.get_weights())
    parts = anatomy(new)
    kernel = parts.stem.kernel.numpy()
    parts.stem.kernel.assign(kernel.reshape(len(inner), -1)[inner].reshape(kernel.shape))
    for block in parts.blocks:
        kernel_0, bias_0, kernel_1, bias_1 = block.token_mixing.get_weights()
        block.token_mixing.set_weights([kernel_0[order], bias_0, kernel_1[:, order], bias_1[order]])
    return new


def permutation_experiment(recipe, source, file, *, steps, points=10, seeds=(0, 1, 2), networks=COMPARED, log=print):
    """Trains a Mixer and a ResNet on the three inputs of Fig 4.

    Args:
        recipe: sizes of the Mixer; augmentation and optimization of both networks.
        source: the data.
        file: JSON file of the results; finished trainings in it are not repeated.
        steps: optimizer steps of each training.
        points: number of measurements per training.
        seeds: seeds of weights, data order, augmentation and permutations; one training each.
        networks: which of `paper.networks.NETWORKS`.
        log: called with a line of text after each training.

    Returns:
        {network: {input: `(seeds, points)` test accuracies}}.

    Raises:
        ValueError: the file has other settings, or `steps` is not a multiple of `points`.
    """
    size = recipe.input_shape()
    settings = {"recipe": recipe.name, "data": source.name, "image_size": size[:2], "steps": steps, "points": points}
    settings |= {"training_images": source.train.size, "batch_size": recipe.global_batch_size}
    stored = ResumableResults(file, settings)
    results: dict[str, dict[str, list]] = {network: {kind: [] for kind in INPUTS} for network in networks}
    for seed in seeds:
        for network in networks:
            for kind in INPUTS:

                def train(seed=seed, network=network, kind=kind):
                    model = build_network(network, recipe, len(source.class_names), seed)
                    case = on_its_own_terms(network, recipe)
                    transform = _transform(kind, size[:2], recipe.architecture().patch_size, seed)
                    options = {"steps": steps, "points": points, "seed": seed, "transform": transform}
                    return train_curve(model, case, source, **options)

                key = f"{network}, {kind}, seed {seed}"
                curve = stored.result(key, train)
                results[network][kind].append(curve)
                log(f"{key}: {curve[-1]:.2%}")
    return results


def permutation_figure(results, steps):
    """Test accuracy along the training, one panel per network, one curve per input.

    Args:
        results: of `permutation_experiment`.
        steps: of each training.
    """
    figure, axes = canvas(5.0 * len(results), 4.0, 1, len(results), squeeze=False, sharey=True)
    lowest = min(min(curve) for curves in results.values() for kind in curves.values() for curve in kind)
    for ax, (network, curves) in zip(axes[0], results.items(), strict=True):
        points = len(next(iter(curves.values()))[0])
        draw_curves(ax, steps_of(steps, points), curves)
        ax.set(title=NETWORKS[network], xlabel="step", ylim=(max(0, lowest - 0.1), 1.01))
    axes[0, 0].set_ylabel("test accuracy")
    return figure


def _transform(kind, image_size, patch_size, seed):
    if kind == "original":
        return None
    permutation = (
        shuffle_pixels(image_size, seed) if kind == INPUTS[2] else shuffle_patches(image_size, patch_size, seed)
    )
    return lambda images: permuted(images, permutation)


def _orders(image_size, patch_size, seed):
    """New position -> old position, of patches and of pixels within a patch."""
    patch = as_pair(patch_size)
    rows, columns = token_grid(image_size, patch)
    generator = np.random.default_rng(seed)
    return generator.permutation(rows * columns), generator.permutation(patch[0] * patch[1])


def _by_patch(plane, grid, patch):
    """`(H, W) -> (S, pixels of a patch)`."""
    return plane.reshape(grid[0], patch[0], grid[1], patch[1]).transpose(0, 2, 1, 3).reshape(grid[0] * grid[1], -1)


def _by_row(patches, grid, patch):
    """`(S, pixels of a patch) -> (H, W)`."""
    plane = patches.reshape(*grid, *patch).transpose(0, 2, 1, 3)
    return plane.reshape(grid[0] * patch[0], grid[1] * patch[1])

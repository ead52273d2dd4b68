"""Figs 5 to 7: the D_S hidden units of the token-mixing MLPs on the g_h x g_w grid of tokens, and the stem filters.

Source: section 3.5 and appendix D of arXiv 2105.01601. The paper sorts and pairs the units "heuristically"; sorting by
mean radial frequency and pairing by smallest cosine similarity are ours.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro

from experiments.networks import open_model, stem_and_blocks
from experiments.training import print_table

GAP, PAIR_GAP = 1, 4  # cells within a pair and between pairs
SMALLEST_SIDE = 14  # cells; smaller images are enlarged so that gaps stay narrow in comparison


def unit_weights(model):
    """For each block `(D_S, g_h, g_w)`: the incoming weights of each hidden unit of its token-mixing MLP."""
    stem, blocks = stem_and_blocks(model)
    kernels = (block.token_mixing.get_weights()[0] for block in blocks)  # (S, D_S)
    return [kernel.T.reshape(-1, *stem.output.shape[1:3]) for kernel in kernels]


def mean_radial_frequency(images):
    """`(n, h, w) -> (n,)`: power-weighted distance from the origin of the 2-D spectrum, in cycles per token.

    An all-zero image gets infinity, so that it is sorted last.
    """
    images = np.asarray(images, np.float64)
    rows, columns = (np.fft.fftfreq(side) for side in images.shape[1:])
    power = np.abs(np.fft.fft2(images)) ** 2
    total = power.sum((1, 2))
    moment = (power * np.hypot(rows[:, None], columns)).sum((1, 2))
    return np.divide(moment, total, out=np.full(len(total), np.inf), where=total > 0)


def smoothness(weights, samples=2_000, seed=0):
    """`(n, h, w)` units against random ones: `(mean frequency, that of random units, fraction of smooth units)`.

    Smooth is below the frequency of 95 % of the random units; without any structure, 0.05 of the units are.
    """
    frequency = mean_radial_frequency(weights)
    frequency = frequency[np.isfinite(frequency)]
    random = mean_radial_frequency(np.random.default_rng(seed).standard_normal((samples, *np.shape(weights)[1:])))
    return frequency.mean(), random.mean(), (frequency < np.quantile(random, 0.05)).mean()


def arrange(weights):
    """`(n, h, w) -> (n,), (n // 2,)`: units by frequency, each followed by the unpaired one least like it; cosines."""
    flat = np.asarray(weights, np.float64).reshape(len(weights), -1)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = np.divide(flat, norm, out=np.zeros_like(flat), where=norm > 0)
    cosine = flat @ flat.T
    cosine[:, norm[:, 0] == 0] = 1.0  # an all-zero unit is never an opposite
    free = list(np.argsort(mean_radial_frequency(weights), kind="stable"))
    order, similarity = [], []
    while free:
        order.append(free.pop(0))
        if free:
            opposite = min(free, key=cosine[order[-1]].__getitem__)
            similarity.append(cosine[order[-1], opposite])
            free.remove(opposite)
            order.append(opposite)
    return np.array(order), np.array(similarity)


def mosaic(images, blank=np.nan):
    """`(n, h, w, ...) -> (rows h', columns w', ...)`: scaled to [-1, 1] each, in pairs, about twice as wide as high."""
    scale = np.abs(images).max(tuple(range(1, images.ndim)), keepdims=True)
    factor = -(-SMALLEST_SIDE // min(images.shape[1:3]))
    images = (images / np.maximum(scale, 1e-30)).repeat(factor, 1).repeat(factor, 2)
    count, height, width, *channels = images.shape
    pairs = max(1, round((count / 2) ** 0.5))  # in a row
    rows = -(-count // (2 * pairs))
    shape = (rows * (height + PAIR_GAP) - PAIR_GAP, pairs * (2 * width + GAP + PAIR_GAP) - PAIR_GAP)
    grid = np.full((*shape, *channels), blank)
    for i, image in enumerate(images):
        row, column = divmod(i, 2 * pairs)
        top, left = row * (height + PAIR_GAP), column // 2 * (2 * width + GAP + PAIR_GAP) + column % 2 * (width + GAP)
        grid[top : top + height, left : left + width] = image
    return grid


def figure_of(panels):
    """Named mosaics below each other: red positive and blue negative, or in color."""
    heights = [10 * image.shape[0] / image.shape[1] + 0.4 for image in panels.values()]
    size = (10, sum(heights))
    figure, axes = plt.subplots(len(panels), 1, figsize=size, squeeze=False, height_ratios=heights)
    for ax, (title, image) in zip(axes[:, 0], panels.items(), strict=True):
        ax.imshow(image, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        ax.set_title(title, fontsize=10)
        ax.axis("off")
    return figure


def main(model: tyro.conf.Positional[Path], output: Path, blocks: tuple[int, ...] = (0, 1, 2), stem: bool = False):
    """Figs 5 to 7: plot the token-mixing weights of some blocks, or the stem filters, low frequencies first.

    Args:
        model: a finished run or .keras file.
        output: the .png or .svg file.
        blocks: indices of blocks, from 0.
        stem: plot the stem filters instead.
    """
    network = open_model(model)
    if stem:
        filters = stem_and_blocks(network)[0].get_weights()[0].transpose(3, 0, 1, 2)  # (C, height, width, 3)
        filters = filters[np.argsort(mean_radial_frequency(filters.mean(-1)), kind="stable")]
        figure_of({f"stem: {len(filters)} filters": (mosaic(filters, blank=1.0) + 1) / 2}).savefig(output)
        return
    units = unit_weights(network)
    panels, rows = {}, []
    for block in blocks:
        if block < len(units):
            order, similarity = arrange(units[block])
            panels[f"block {block}: {len(order)} units"] = mosaic(units[block][order])
            mean, random, low = smoothness(units[block])
            rows.append((block, f"{mean:.3f}", f"{random:.3f}", f"{low:.0%}", f"{np.median(similarity):.2f}"))
    random = np.random.default_rng(0).standard_normal(units[0].shape)
    panels["random weights, arranged in the same way"] = mosaic(random[arrange(random)[0]])
    print_table(("block", "mean frequency", "random", "smoother than 95 % of random", "median cosine of pairs"), rows)
    figure_of(panels).savefig(output)


if __name__ == "__main__":
    tyro.cli(main)

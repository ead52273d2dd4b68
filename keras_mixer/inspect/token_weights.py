"""Weights of token-mixing hidden units, drawn on the grid of tokens, and stem filters (Figs 5 to 7 of the paper).

Shapes: D_S hidden units, g_h x g_w grid of tokens.

Source: section 4 and appendix of arXiv 2105.01601. The paper sorts and pairs the units "heuristically"; sorting by mean
radial frequency and pairing by smallest cosine similarity are ours.
"""

import dataclasses

import numpy as np

from keras_mixer.anatomy import anatomy
from keras_mixer.inspect.figures import canvas
from keras_mixer.weights.resolution import tiles

GAP, PAIR_GAP = 1, 4  # cells within a pair and between pairs
SMALLEST_SIDE = 14  # cells; smaller images are enlarged so that gaps stay narrow in comparison


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """An order of hidden units.

    Attributes:
        order: `(n,)` indices: low frequency first, each unit followed by its opposite.
        frequency: `(n,)` mean radial frequency of each unit in the original order, in cycles per token.
        similarity: `(n // 2,)` cosine of each pair in `order`; -1 for exact opposites.
    """

    order: np.ndarray
    frequency: np.ndarray
    similarity: np.ndarray


@dataclasses.dataclass(frozen=True)
class Frequency:
    """How smooth the units of a token-mixing MLP are, compared with random ones on the same grid.

    Attributes:
        units: number of units compared; all-zero ones are left out.
        mean: mean radial frequency over the units, in cycles per token.
        random: the same for random units.
        low: fraction of the units with a lower frequency than 95 % of the random ones; 0.05 without any structure.
    """

    units: int
    mean: float
    random: float
    low: float


def unit_weights(model, block, tile_grid=None) -> np.ndarray:
    """`(D_S, g_h, g_w) float32`: the incoming weights of each hidden unit of one token-mixing MLP.

    Args:
        model: a Mixer of this package.
        block: index of the block, from 0.
        tile_grid: `(rows, columns)` of tokens before the model was widened to a larger image size; each unit is then
            shown on its own tile (the one with most of its weight). None for the full grid.

    Raises:
        ValueError: `block` is out of range, or the grid is not a multiple of `tile_grid`.
    """
    parts = anatomy(model)
    blocks, grid = parts.blocks, parts.grid
    if not 0 <= block < len(blocks):
        raise ValueError(f"Expected a block from 0 to {len(blocks) - 1}, got {block!r}.")
    kernel = blocks[block].token_mixing.dense_0.get_weights()[0]  # (S, D_S)
    weights = kernel.T.reshape(-1, *grid)
    if tile_grid is None:
        return weights
    counts = tiles(tile_grid, grid)
    if counts is None:
        raise ValueError(
            f"Expected a tile grid that divides {grid[0]} x {grid[1]} tokens, got {tile_grid[0]} x {tile_grid[1]}."
        )
    height, width = tile_grid
    tiled = weights.reshape(-1, counts[0], height, counts[1], width).transpose(0, 1, 3, 2, 4)
    tiled = tiled.reshape(len(weights), -1, height, width)  # (D_S, tiles, rows, columns)
    return tiled[np.arange(len(tiled)), (tiled**2).sum((2, 3)).argmax(1)]


def stem_filters(model) -> np.ndarray:
    """`(C, patch height, patch width, channels) float32`: the stem filters."""
    return anatomy(model).stem.get_weights()[0].transpose(3, 0, 1, 2)


def mean_radial_frequency(images) -> np.ndarray:
    """`(n, h, w) -> (n,)`: power-weighted distance from the origin of the 2-D spectrum, in cycles per token.

    An all-zero image gets infinity, so that it is sorted last.
    """
    images = np.asarray(images, np.float64)
    rows, columns = (np.fft.fftfreq(side) for side in images.shape[1:])
    radius = np.hypot(rows[:, None], columns[None])
    power = np.abs(np.fft.fft2(images)) ** 2
    total = power.sum((1, 2))
    return np.divide((power * radius).sum((1, 2)), total, out=np.full(len(total), np.inf), where=total > 0)


def frequency_against_random(weights, samples=2_000, seed=0) -> Frequency:
    """`(n, h, w) -> Frequency`: compares units with `samples` units of independent normal weights.

    Source: ours. The paper describes the learned units of its figure 5 in words only.
    """
    frequency = mean_radial_frequency(weights)
    frequency = frequency[np.isfinite(frequency)]
    noise = np.random.default_rng(seed).standard_normal((samples, *np.shape(weights)[1:]))
    random = mean_radial_frequency(noise)
    if not len(frequency):
        return Frequency(0, np.nan, float(random.mean()), np.nan)
    low = float((frequency < np.quantile(random, 0.05)).mean())
    return Frequency(len(frequency), float(frequency.mean()), float(random.mean()), low)


def arrange(weights) -> Arrangement:
    """`(n, h, w) -> Arrangement`: sorts units by frequency; each is followed by the unpaired unit least like it.

    Pairing is greedy, from low to high frequency, by smallest cosine similarity.
    """
    flat = np.asarray(weights, np.float64).reshape(len(weights), -1)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = np.divide(flat, norm, out=np.zeros_like(flat), where=norm > 0)
    cosine = flat @ flat.T
    cosine[:, norm[:, 0] == 0] = 1.0  # an all-zero unit is never an opposite
    frequency = mean_radial_frequency(weights)
    free = np.ones(len(flat), bool)
    order, similarity = [], []
    for unit in np.argsort(frequency, kind="stable"):
        if not free[unit]:
            continue
        free[unit] = False
        order.append(int(unit))
        if free.any():
            candidates = np.flatnonzero(free)
            opposite = int(candidates[cosine[unit, candidates].argmin()])
            free[opposite] = False
            order.append(opposite)
            similarity.append(float(cosine[unit, opposite]))
    return Arrangement(np.array(order), frequency, np.array(similarity))


def weights_figure(model, blocks=(0, 1, 2), tile_grid=None):
    """A figure of every hidden unit of some blocks: red positive, blue negative, each scaled to its largest weight.

    Args:
        model: a Mixer of this package.
        blocks: indices of blocks.
        tile_grid: see `unit_weights`.
    """
    panels = []
    for block in blocks:
        weights = unit_weights(model, block, tile_grid)
        arrangement = arrange(weights)
        title = (
            f"block {block}: {len(weights)} units, median cosine of pairs {np.median(arrangement.similarity):.2f}"
            if len(arrangement.similarity)
            else f"block {block}"
        )
        panels.append((title, mosaic(_enlarged(scaled(weights)[arrangement.order]))))
    return _panels(panels, cmap="RdBu_r")


def stem_figure(model):
    """A figure of every stem filter, low frequency first; grey is 0, and three channels are shown in colour."""
    filters = stem_filters(model)
    order = np.argsort(mean_radial_frequency(filters.mean(-1)), kind="stable")
    filters = (scaled(filters)[order] + 1) / 2
    if filters.shape[-1] != 3:  # cannot be shown in colour
        filters = filters.mean(-1, keepdims=True).repeat(3, -1)
    return _panels([(f"stem: {len(filters)} filters", mosaic(_enlarged(filters), blank=1.0))])


def scaled(weights):
    """`(n, ...) -> (n, ...)` in [-1, 1]: each entry of the first axis divided by its largest absolute weight."""
    axes = tuple(range(1, weights.ndim))
    return weights / np.maximum(np.abs(weights).max(axes, keepdims=True), 1e-30)


def mosaic(images, columns=None, blank=np.nan):
    """`(n, h, w, ...) -> (rows h', columns w', ...)`: images side by side, an even number per row.

    Args:
        images: images of equal size.
        columns: images per row, an even number; None for about twice as many as rows.
        blank: value of the gaps.
    """
    count, height, width, *channels = images.shape
    columns = columns or min(-(-count // 2) * 2, max(2, 2 * round((count * 2) ** 0.5 / 2)))
    rows, pair = -(-count // columns), 2 * width + GAP
    shape = (rows * (height + PAIR_GAP) - PAIR_GAP, columns // 2 * (pair + PAIR_GAP) - PAIR_GAP)
    grid = np.full((*shape, *channels), blank)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        top, left = row * (height + PAIR_GAP), column // 2 * (pair + PAIR_GAP) + column % 2 * (width + GAP)
        grid[top : top + height, left : left + width] = image
    return grid


def _enlarged(images):
    factor = -(-SMALLEST_SIDE // min(images.shape[1:3]))
    return images.repeat(factor, 1).repeat(factor, 2)


def _panels(panels, **options):
    width = 10.0
    heights = [max(0.5, (width - 0.4) * image.shape[0] / image.shape[1]) + 0.4 for _, image in panels]
    figure, axes = canvas(width, sum(heights), len(panels), 1, squeeze=False, height_ratios=heights)
    for ax, (title, image) in zip(axes[:, 0], panels, strict=True):
        ax.imshow(image, interpolation="nearest", **({"vmin": -1, "vmax": 1} | options if image.ndim == 2 else {}))
        ax.set_title(title, fontsize=10)
        ax.axis("off")
    return figure

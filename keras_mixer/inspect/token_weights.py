"""What the hidden units of the token-mixing MLPs look at, as pictures on the grid of tokens (Figs 5 to 7 of the paper).

Shapes: D_S hidden units, g_h x g_w grid of tokens.

Source: section 4 and appendix of arXiv 2105.01601. The paper orders and pairs the units "heuristically"; the order by
mean radial frequency and the pairs by smallest cosine similarity are ours.
"""

import dataclasses

import numpy as np

from keras_mixer.inspect.figures import canvas
from keras_mixer.mixer_model import grid_of
from keras_mixer.models import blocks_of
from keras_mixer.weights.resolution import tiles

GAP, PAIR_GAP = 1, 4  # cells between the two pictures of a pair, and between pairs
SMALLEST_SIDE = 14  # cells; smaller pictures are enlarged, or the gaps would be as wide


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """An order of pictures.

    Attributes:
        order: `(n,)` indices: low frequency first, each unit followed by its opposite.
        frequency: `(n,)` of the pictures in their own order, in cycles a token.
        similarity: `(n // 2,)` cosine of each pair in order; -1 for exact opposites.
    """

    order: np.ndarray
    frequency: np.ndarray
    similarity: np.ndarray


def token_pictures(model, block, tile_grid=None) -> np.ndarray:
    """`(D_S, g_h, g_w) float32`: the incoming weights of each hidden unit of one token-mixing MLP.

    Args:
        model: a Mixer of this package.
        block: which block, from 0 on.
        tile_grid: `(rows, columns)` of tokens of the image size that a widened model was made from; each unit is then
            shown on the tile it looks at (that with most of its weight). None for the whole grid.

    Raises:
        ValueError: there is no such block, or the grid is not made of such tiles.
    """
    blocks = blocks_of(model)
    if not 0 <= block < len(blocks):
        raise ValueError(f"The model has blocks 0 to {len(blocks) - 1}, not {block!r}.")
    grid = grid_of(model)
    kernel = blocks[block].token_mixing.dense_0.get_weights()[0]  # (S, D_S)
    pictures = kernel.T.reshape(-1, *grid)
    if tile_grid is None:
        return pictures
    counts = tiles(tile_grid, grid)
    if counts is None:
        raise ValueError(f"A grid of {grid[0]} x {grid[1]} tokens is not made of whole tiles of {tile_grid}.")
    height, width = tile_grid
    parts = pictures.reshape(-1, counts[0], height, counts[1], width).transpose(0, 1, 3, 2, 4)
    parts = parts.reshape(len(pictures), -1, height, width)  # (D_S, tiles, rows, columns)
    return parts[np.arange(len(parts)), (parts**2).sum((2, 3)).argmax(1)]


def stem_pictures(model) -> np.ndarray:
    """`(C, patch height, patch width, channels) float32`: the filters of the stem."""
    return model.get_layer("stem").get_weights()[0].transpose(3, 0, 1, 2)


def mean_radial_frequency(pictures) -> np.ndarray:
    """`(n, h, w) -> (n,)`: distance from the origin of the 2-D spectrum, weighted by power, in cycles a token.

    A picture of zeros gets infinity, so that it comes last.
    """
    pictures = np.asarray(pictures, np.float64)
    rows, columns = (np.fft.fftfreq(side) for side in pictures.shape[1:])
    radius = np.hypot(rows[:, None], columns[None])
    power = np.abs(np.fft.fft2(pictures)) ** 2
    total = power.sum((1, 2))
    return np.divide((power * radius).sum((1, 2)), total, out=np.full(len(total), np.inf), where=total > 0)


def arrange(pictures) -> Arrangement:
    """`(n, h, w) -> Arrangement`: goes through the pictures from low frequency to high; the next one still free takes
    the free one least like it (smallest cosine) to its side.
    """
    flat = np.asarray(pictures, np.float64).reshape(len(pictures), -1)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    flat = np.divide(flat, norm, out=np.zeros_like(flat), where=norm > 0)
    cosine = flat @ flat.T
    cosine[:, norm[:, 0] == 0] = 1.0  # a picture of zeros is nobody's opposite
    frequency = mean_radial_frequency(pictures)
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
    """Every hidden unit of some blocks: red adds, blue subtracts, each picture scaled to its own largest weight.

    Args:
        model: a Mixer of this package.
        blocks: numbers of blocks.
        tile_grid: see `token_pictures`.
    """
    panels = []
    for block in blocks:
        pictures = token_pictures(model, block, tile_grid)
        arrangement = arrange(pictures)
        title = (
            f"block {block}: {len(pictures)} units, median cosine of a pair {np.median(arrangement.similarity):.2f}"
            if len(arrangement.similarity)
            else f"block {block}"
        )
        panels.append((title, mosaic(_enlarged(scaled(pictures)[arrangement.order]))))
    return _panels(panels, cmap="RdBu_r")


def stem_figure(model):
    """Every filter of the stem, low frequency first; grey is 0, and three channels are shown as colours."""
    pictures = stem_pictures(model)
    order = np.argsort(mean_radial_frequency(pictures.mean(-1)), kind="stable")
    pictures = (scaled(pictures)[order] + 1) / 2
    if pictures.shape[-1] != 3:  # no colours to show
        pictures = pictures.mean(-1, keepdims=True).repeat(3, -1)
    return _panels([(f"stem: {len(pictures)} filters", mosaic(_enlarged(pictures), blank=1.0))])


def scaled(pictures):
    """Each picture divided by its largest absolute weight: `(n, ...) -> (n, ...)` in [-1, 1]."""
    axes = tuple(range(1, pictures.ndim))
    return pictures / np.maximum(np.abs(pictures).max(axes, keepdims=True), 1e-30)


def mosaic(pictures, columns=None, blank=np.nan):
    """`(n, h, w, ...) -> (rows h', columns w', ...)`: pictures side by side, an even number in a row.

    Args:
        pictures: equal in size.
        columns: how many in a row, an even number; None for about twice as many as rows.
        blank: value between them.
    """
    count, height, width, *channels = pictures.shape
    columns = columns or min(-(-count // 2) * 2, max(2, 2 * round((count * 2) ** 0.5 / 2)))
    rows, pair = -(-count // columns), 2 * width + GAP
    shape = (rows * (height + PAIR_GAP) - PAIR_GAP, columns // 2 * (pair + PAIR_GAP) - PAIR_GAP)
    wall = np.full((*shape, *channels), blank)
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        top, left = row * (height + PAIR_GAP), column // 2 * (pair + PAIR_GAP) + column % 2 * (width + GAP)
        wall[top : top + height, left : left + width] = picture
    return wall


def _enlarged(pictures):
    factor = -(-SMALLEST_SIDE // min(pictures.shape[1:3]))
    return pictures.repeat(factor, 1).repeat(factor, 2)


def _panels(panels, **options):
    width = 10.0
    heights = [max(0.5, (width - 0.4) * wall.shape[0] / wall.shape[1]) + 0.4 for _, wall in panels]
    figure, axes = canvas(width, sum(heights), len(panels), 1, squeeze=False, height_ratios=heights)
    for ax, (title, wall) in zip(axes[:, 0], panels, strict=True):
        ax.imshow(wall, interpolation="nearest", **({"vmin": -1, "vmax": 1} | options if wall.ndim == 2 else {}))
        ax.set_title(title, fontsize=10)
        ax.axis("off")
    return figure

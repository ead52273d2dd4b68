"""Token-mixing weights for another grid of tokens: the paper's block-diagonal widening, and bilinear resampling.

Arrays of one block, S tokens, D_S hidden units: kernel_0 (S, D_S), bias_0 (D_S,), kernel_1 (D_S, S), bias_1 (S,).

Source: appendix C of arXiv 2105.01601 for the widening. The paper states it for tokens ordered tile by tile; models
order them row by row over the whole image, hence the permutation. Resampling is ours, not from the paper.
"""

import dataclasses
import math

import numpy as np

METHODS = ("block_diagonal", "bilinear")


@dataclasses.dataclass(frozen=True)
class TokenMlp:
    """The four arrays of a token-mixing MLP."""

    kernel_0: np.ndarray
    bias_0: np.ndarray
    kernel_1: np.ndarray
    bias_1: np.ndarray


def tiles(source_grid, target_grid) -> tuple[int, int] | None:
    """The number of source grids in the target, `(K_h, K_w)`; None unless both sides are multiples."""
    if target_grid[0] % source_grid[0] or target_grid[1] % source_grid[1]:
        return None
    return target_grid[0] // source_grid[0], target_grid[1] // source_grid[1]


def widened_dim(tokens_mlp_dim, source_grid, target_grid) -> int:
    """D_S of the widened model: D_S times the number of tiles. Unchanged without whole tiles; loading then fails."""
    return tokens_mlp_dim * math.prod(tiles(source_grid, target_grid) or (1,))


def widen(mlp: TokenMlp, source_grid, target_grid) -> TokenMlp:
    """The paper's rule: every tile of the larger image is mixed separately, by its own copy of the MLP.

    `S -> n S` and `D_S -> n D_S` for n = K_h K_w tiles.

    Args:
        mlp: weights for `source_grid`.
        source_grid: `(g_h, g_w)` rows and columns of tokens.
        target_grid: the same for the larger image; each side a multiple.

    Raises:
        ValueError: a side is not a multiple.
    """
    counts = tiles(source_grid, target_grid)
    if counts is None:
        raise ValueError(f"A grid of {target_grid} does not consist of whole tiles of {source_grid}.")
    count = counts[0] * counts[1]
    tokens, hidden = mlp.kernel_0.shape
    rows = _rows_of_tiles(source_grid, counts)
    kernel_0 = np.zeros((count * tokens, count * hidden), mlp.kernel_0.dtype)
    kernel_1 = np.zeros((count * hidden, count * tokens), mlp.kernel_1.dtype)
    bias_1 = np.empty(count * tokens, mlp.bias_1.dtype)
    for tile in range(count):
        columns = slice(tile * hidden, (tile + 1) * hidden)
        kernel_0[rows[tile], columns] = mlp.kernel_0
        kernel_1[columns, rows[tile]] = mlp.kernel_1
        bias_1[rows[tile]] = mlp.bias_1
    return TokenMlp(kernel_0, np.tile(mlp.bias_0, count), kernel_1, bias_1)


def _rows_of_tiles(source_grid, counts):
    """`(n, S)` int: for each tile, the positions of its tokens in the row-by-row order of the whole grid."""
    height, width = source_grid
    positions = np.arange(height * counts[0] * width * counts[1])
    positions = positions.reshape(counts[0], height, counts[1], width)  # (tile row, row, tile column, column)
    return positions.transpose(0, 2, 1, 3).reshape(counts[0] * counts[1], height * width)


def resample(mlp: TokenMlp, source_grid, target_grid) -> TokenMlp:
    """Resizes the weights like images, bilinearly; D_S stays. Not from the paper.

    Incoming weights are divided by the growth of the number of tokens, which keeps the scale of the hidden units.

    Args:
        mlp: weights for `source_grid`.
        source_grid: `(g_h, g_w)` rows and columns of tokens.
        target_grid: any other.
    """
    stretch = np.kron(*(_interpolation(*sides) for sides in zip(source_grid, target_grid, strict=True)))  # (S', S)
    stretch = stretch.astype(mlp.kernel_0.dtype)
    scale = len(mlp.kernel_0) / len(stretch)
    return TokenMlp(stretch @ mlp.kernel_0 * scale, mlp.bias_0, mlp.kernel_1 @ stretch.T, stretch @ mlp.bias_1)


def _interpolation(source, target):
    """`(target, source)`: linear interpolation between cell centers, border repeated; rows sum to 1."""
    centers = np.clip((np.arange(target) + 0.5) * source / target - 0.5, 0, source - 1)
    left = np.minimum(centers.astype(int), max(source - 2, 0))
    fraction = centers - left
    matrix = np.zeros((target, source))
    matrix[np.arange(target), left] += 1 - fraction
    matrix[np.arange(target), np.minimum(left + 1, source - 1)] += fraction
    return matrix

"""Pictures of one model's weights."""

from pathlib import Path
from typing import Annotated

import tyro

from keras_mixer.export.loading import load_mixer
from keras_mixer.inspect.figures import check_picture_path, write_figure
from keras_mixer.inspect.token_weights import stem_figure, weights_figure
from keras_mixer.models import blocks_of

Model = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]


def weights(model: Model, output: Path, blocks: tuple[int, ...] = (0, 1, 2), tile_grid: tuple[int, int] | None = None):
    """Draw every hidden unit of token-mixing MLPs on the grid of tokens, low frequencies first, opposites side by side.

    Args:
        model: a finished run directory or .keras file.
        output: the .png or .svg file to write; must not exist.
        blocks: numbers of blocks, from 0 on.
        tile_grid: rows and columns of tokens before a model was widened; each unit is then shown on its own tile.
    """
    check_picture_path(output)
    loaded = load_mixer(model)
    last = len(blocks_of(loaded))
    chosen = blocks if blocks != (0, 1, 2) else tuple(range(min(3, last)))
    print(f"Written: {write_figure(weights_figure(loaded, chosen, tile_grid), output)}")


def stem(model: Model, output: Path):
    """Draw the filters of the stem, low frequencies first.

    Args:
        model: a finished run directory or .keras file.
        output: the .png or .svg file to write; must not exist.
    """
    check_picture_path(output)
    print(f"Written: {write_figure(stem_figure(load_mixer(model)), output)}")

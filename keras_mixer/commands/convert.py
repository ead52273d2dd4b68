"""Turn a weight file into another format: convert IN OUT."""

from pathlib import Path
from typing import Annotated

import tyro

from keras_mixer.commands.terminal import parse
from keras_mixer.conversion import convert


def run(arguments):
    """Turn a weight file into another format: convert IN OUT."""
    parse(convert_file, "convert", arguments)


def convert_file(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")],
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    like: Path | None = None,
):
    """Turn a weight file into another format.

    Args:
        source: .npz (official or timm's names), .safetensors (timm), .keras or .weights.h5.
        target: .npz (official), .keras or .weights.h5; must not exist.
        like: a .keras file of the same model; needed for a .weights.h5 source.
    """
    print(f"Written: {convert(source, target, like)}")

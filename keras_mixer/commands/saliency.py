"""Picture what in an image speaks for its class: saliency MODEL IMAGE."""

from pathlib import Path
from typing import Annotated

import tyro

from keras_mixer.commands.terminal import parse
from keras_mixer.export.loading import load_mixer
from keras_mixer.files import refuse_existing
from keras_mixer.inspect.saliency import write_picture


def run(arguments):
    """Picture what in an image speaks for its class: saliency MODEL IMAGE."""
    parse(saliency, "saliency", arguments)


def saliency(
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    image: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")],
    output: Path,
    class_name: str | None = None,
):
    """Picture what in an image speaks for a class (red) and against it (blue).

    Args:
        model: a finished run directory or .keras file.
        image: a JPEG, PNG, GIF, BMP or WebP file.
        output: the PNG file to write; must not exist.
        class_name: the class; the most probable one by default.
    """
    refuse_existing(output)
    print(f"Written: {output} (class {write_picture(load_mixer(model), image, output, class_name)})")

"""List the published sizes with parameters and cost."""

import dataclasses

from keras_mixer.commands.terminal import parse, print_table
from keras_mixer.variants import VARIANTS


def run(arguments):
    """List the published sizes with parameters and cost."""
    parse(variants, "variants", arguments)


def variants(image_size: int = 224, classes: int = 1000):
    """List the seven sizes of Table 1.

    Args:
        image_size: side of the image in pixels; sizes whose patch does not divide it are marked.
        classes: outputs of the head; 0 leaves it out.
    """
    rows = []
    for name, variant in VARIANTS.items():
        try:
            shape = (image_size, image_size, 3)
            cost = (f"{variant.parameters(shape, classes):,}", f"{variant.macs(shape, classes) / 1e9:.3f}")
        except ValueError:
            cost = ("-", "-")
        rows.append((name, *map(str, dataclasses.astuple(variant)), *cost))
    header = ("variant", "patch", "blocks", "hidden", "tokens", "channels", "parameters", "GMACs")
    print_table(header, rows)

"""Whether images are in the range that a model expects."""

import warnings

import numpy as np

LARGEST_SCALED = 3.0  # of pixels in [0, 1] or [-1, 1], or divided by their standard deviation
OVERSHOOT = 0.25  # how far resizing with a sharp kernel may leave the range, as a fraction of it


def warn_of_range(pixels, expected=(0, 255)):
    """Warns if pixels, or the lowest and highest of each batch, cannot be right.

    `expected` are the values of black and white, or None if they are unknown. Only finite pixels count.
    """
    pixels = np.asarray(pixels)
    floating = not np.issubdtype(pixels.dtype, np.integer)
    pixels = pixels[np.isfinite(pixels)] if floating else pixels
    if expected is None or not pixels.size:
        return
    (black, white), lowest, highest = expected, pixels.min(), pixels.max()
    margin = OVERSHOOT * (white - black)
    far_out = lowest < black - margin or highest > white + margin
    scaled = lowest < highest <= LARGEST_SCALED < white
    halved = black == -white and lowest == 0 < highest  # uint8 pixels are never halfway to white
    if far_out or (floating and (scaled or halved)):
        found = f"Pixels are {lowest:g} to {highest:g}, but the model expects {black:g} (black) to {white:g} (white)."
        for low, high in ((0, 255), (0, 1), (-1, 1)):
            scale = (white - black) / (high - low)
            found += f" From [{low}, {high}], pass {scale:g} * images + {black - scale * low:g}."
        warnings.warn(found, stacklevel=3)

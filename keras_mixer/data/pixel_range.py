"""Whether images are in the range that a model expects."""

import math
import warnings

import numpy as np

LARGEST_SCALED = 3.0  # of pixels in [0, 1] or [-1, 1], or divided by their standard deviation
OVERSHOOT = 0.25  # how far resizing with a sharp kernel may leave the range, as a fraction of it


class PixelRange:
    """Lowest and highest pixel of all images of a call, to compare with the range that the model expects."""

    def __init__(self):
        self.lowest, self.highest, self.floating = math.inf, -math.inf, False

    def add(self, images):
        """Takes in the pixels of a batch of images, unless some are not finite."""
        if not images.size:
            return
        lowest, highest = float(images.min()), float(images.max())
        if math.isfinite(lowest) and math.isfinite(highest):
            self.lowest, self.highest = min(self.lowest, lowest), max(self.highest, highest)
            self.floating |= not np.issubdtype(images.dtype, np.integer)

    def warn(self, expected) -> str:
        """Warns if the pixels cannot be right, and returns the warning; otherwise an empty string.

        Args:
            expected: values of a black and a white pixel; None if unknown.
        """
        remark = self._remark(*expected) if expected is not None and self.lowest < self.highest else ""
        if remark:
            warnings.warn(remark, stacklevel=3)
        return remark

    def _remark(self, black, white):
        margin = OVERSHOOT * (white - black)
        wanted = f"the model expects {black:g} (black) to {white:g} (white)"
        if self.floating and self.highest <= LARGEST_SCALED < white:
            return (
                f"No pixel is above {LARGEST_SCALED:g}, but {wanted}. Pass {white:g} * images if they are in [0, 1], "
                f"{white / 2:g} * (images + 1) if they are in [-1, 1]."
            )
        if self.lowest < black - margin or self.highest > white + margin:
            return f"Pixels are far out of range: {wanted}. Scale them to it."
        if self.floating and black == -white and self.lowest == 0:  # uint8 pixels are never halfway to white
            return f"No pixel is below 0, but {wanted}. Pass {white:g} * (2 * images - 1) if they are in [0, 1]."
        return ""

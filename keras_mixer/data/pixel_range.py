"""Whether images are in the range that a model expects."""

import warnings

import numpy as np

LARGEST_SCALED = 3.0  # of pixels in [0, 1] or [-1, 1], or divided by their standard deviation
OVERSHOOT = 0.25  # how far resizing with a sharp kernel may leave the range, as a fraction of it


class PixelRange:
    """Lowest and highest pixel of all images of a call, to compare with the range that the model expects."""

    def __init__(self):
        self.lowest, self.highest, self.floating = np.inf, -np.inf, False

    def add(self, images) -> "PixelRange":
        """Takes in the pixels of a batch of images, unless some are not finite; returns itself."""
        lowest, highest = (images.min(), images.max()) if images.size else (np.nan, np.nan)
        if np.isfinite(lowest) and np.isfinite(highest):  # then all are
            self.lowest, self.highest = min(self.lowest, lowest), max(self.highest, highest)
            self.floating |= not np.issubdtype(images.dtype, np.integer)
        return self

    def warn(self, expected=(0, 255)) -> str:
        """Warns if the pixels cannot be right, and returns the warning or ""; expects values of black and white."""
        if expected is None or self.lowest >= self.highest:
            return ""
        (black, white), remark = expected, ""
        margin = OVERSHOOT * (white - black)
        wanted = f"the model expects {black:g} (black) to {white:g} (white)"
        if self.floating and self.highest <= LARGEST_SCALED < white:
            remark = (
                f"No pixel is above {LARGEST_SCALED:g}, but {wanted}. Pass {white:g} * images if they are in [0, 1], "
                f"{white / 2:g} * (images + 1) if they are in [-1, 1]."
            )
        elif self.lowest < black - margin or self.highest > white + margin:
            remark = f"Pixels are far out of range: {wanted}. Scale them to it."
        elif self.floating and black == -white and self.lowest == 0:  # uint8 pixels are never halfway to white
            remark = f"No pixel is below 0, but {wanted}. Pass {white:g} * (2 * images - 1) if they are in [0, 1]."
        if remark:
            warnings.warn(remark, stacklevel=3)
        return remark

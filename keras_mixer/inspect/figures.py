"""Figures and images as files and as parts of an HTML page."""

import base64
import io
from pathlib import Path

from PIL import Image

from keras_mixer.files import atomic_write

DOTS_PER_INCH = 144
LOSSLESS_SIDE = 64  # pixels; larger images are JPEG files in a page


def write_figure(figure, path) -> Path:
    """Writes a figure of matplotlib as the kind of file that `path` ends in; replaces an existing one."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, format=temporary.suffix[1:] or "png")
    return Path(path)


def figure_url(figure) -> str:
    """A figure of matplotlib as a data URL."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return _data_url(buffer, "png")


def image_url(pixels) -> str:
    """`(H, W, 3) uint8` as a data URL."""
    kind = "png" if max(pixels.shape[:2]) <= LOSSLESS_SIDE else "jpeg"
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=85)
    return _data_url(buffer, kind)


def _data_url(buffer, kind):
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"

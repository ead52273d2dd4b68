"""Figures as files and as parts of an HTML page; that of a confusion matrix, and its largest entries."""

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from keras_mixer.files import atomic_write

DOTS_PER_INCH = 144
LOSSLESS_SIDE = 64  # pixels; larger images are JPEG files in a page
MOST_NUMBERS = 20  # largest number of classes for which cells show counts
MOST_NAMES = 60  # largest number of classes for which axes show names


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


def mistakes(confusion, class_names, count=10):
    """`(label, prediction, images, fraction of the label's images)` of the most frequent mistakes.

    Rows of the confusion matrix `(K, K)` are labels, columns are predictions, cells are numbers of images.
    """
    totals = confusion.sum(1)
    found = [(label, guess) for label, guess in np.argwhere(confusion) if label != guess]
    found.sort(key=lambda pair: -confusion[pair])  # stable
    largest = ((i, k, int(confusion[i, k])) for i, k in found[:count])
    return [(class_names[i], class_names[k], images, float(images / totals[i])) for i, k, images in largest]


def confusion_figure(confusion, class_names):
    """The confusion matrix as a heat map, each row normalized to fractions of its label's images."""
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure  # takes a second, needed only here; no display, no global state
    from matplotlib.ticker import PercentFormatter

    confusion = np.asarray(confusion)
    classes = len(confusion)
    images = confusion.sum()
    fractions = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    side = float(np.clip(1.6 + 0.42 * classes, 4.0, 12.0))
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    ax = figure.subplots()
    heat_map = ax.imshow(fractions, cmap="Blues", norm=PowerNorm(0.5, 0, 1))  # makes rare mistakes visible
    ax.spines[:].set_visible(False)
    accuracy = np.trace(confusion) / max(images, 1)
    ax.set(xlabel="prediction", ylabel="label", title=f"accuracy {accuracy:.2%} ({images:,} images)")
    if classes <= MOST_NAMES:
        rotation = 90 if max(map(len, class_names)) > 3 else 0
        ax.set_xticks(range(classes), class_names, rotation=rotation, parse_math=False)
        ax.set_yticks(range(classes), class_names, parse_math=False)
    if classes <= MOST_NUMBERS:
        for label, guess in zip(*np.nonzero(confusion), strict=True):
            color = "white" if fractions[label, guess] > 0.3 else "black"
            ax.text(guess, label, str(confusion[label, guess]), ha="center", va="center", color=color, fontsize=9)
    label = "fraction of the label's images"
    figure.colorbar(heat_map, ax=ax, shrink=0.7, ticks=[0, 0.1, 0.5, 1], format=PercentFormatter(1), label=label)
    return figure

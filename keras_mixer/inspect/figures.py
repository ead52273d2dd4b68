"""How pictures are drawn and written; the one place that imports matplotlib, which comes with the extra `[plots]`."""

from pathlib import Path

from keras_mixer.files import atomic_write, refuse_existing

FORMATS = (".png", ".svg")
DOTS_PER_INCH = 144
COLOURS = ("#1b6ca8", "#d1495b", "#3c8d5a", "#8a5fa8", "#c98b1e", "#555b6e")  # in this order, told apart in grey too


def canvas(width, height, rows=1, columns=1, **options):
    """An empty figure and its axes.

    Args:
        width: of the picture in inches.
        height: of the picture in inches.
        rows: of axes.
        columns: of axes.
        **options: those of matplotlib's `Figure.subplots`.

    Returns:
        `(figure, axes)`; axes is an array where there are several.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # without pyplot: no window system, no global state
    except ModuleNotFoundError as error:
        raise ValueError("Pictures need matplotlib: pip install 'keras-mixer[plots]'.") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, **options)
    for ax in [axes] if rows * columns == 1 and options.get("squeeze", True) else axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def check_picture_path(path):
    """The path of a picture to be.

    Raises:
        ValueError: it does not end in .png or .svg, or something is there already.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"A picture is written as {' or '.join(FORMATS)}, unlike {path}.")
    refuse_existing(path)
    return path


def write_figure(figure, path):
    """Writes a figure as PNG or SVG, by the ending of its name; returns the path.

    Raises:
        ValueError: another ending.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"A picture is written as {' or '.join(FORMATS)}, unlike {path}.")
    from matplotlib import rc_context

    metadata = {"Date": None} if path.suffix == ".svg" else {}  # the same figure gives the same file
    with atomic_write(path) as temporary, rc_context({"svg.hashsalt": "keras_mixer"}):
        figure.savefig(temporary, dpi=DOTS_PER_INCH, metadata=metadata)
    return path

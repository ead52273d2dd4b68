"""Drawing and writing figures. The only file that imports matplotlib, which comes with the extra `[plots]`."""

from pathlib import Path

from keras_mixer.files import atomic_write, refuse_existing

FORMATS = (".png", ".svg")
DOTS_PER_INCH = 144
COLOURS = (
    "#1b6ca8",
    "#d1495b",
    "#3c8d5a",
    "#8a5fa8",
    "#c98b1e",
    "#555b6e",
)  # also distinct in greyscale


def canvas(width, height, rows=1, columns=1, **options):
    """An empty figure and its axes.

    Args:
        width: width of the figure in inches.
        height: height of the figure in inches.
        rows: rows of axes.
        columns: columns of axes.
        **options: passed to matplotlib's `Figure.subplots`.

    Returns:
        `(figure, axes)`; axes is an array if there is more than one.

    Raises:
        ValueError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure  # not pyplot: needs no display and has no global state
    except ModuleNotFoundError as error:
        raise ValueError("Figures need matplotlib: pip install 'keras-mixer[plots]'.") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, **options)
    for ax in [axes] if rows * columns == 1 and options.get("squeeze", True) else axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def check_figure_path(path):
    """Checks the path of a figure before any work is done; returns it as a `Path`.

    Raises:
        ValueError: it does not end in .png or .svg, or it exists.
    """
    path = _with_known_ending(path)
    refuse_existing(path)
    return path


def write_figure(figure, path):
    """Writes a figure as PNG or SVG, depending on the ending of `path`; returns the `Path`.

    Raises:
        ValueError: the path does not end in .png or .svg.
    """
    path = _with_known_ending(path)
    from matplotlib import rc_context

    metadata = {"Date": None} if path.suffix == ".svg" else {}  # makes the file deterministic
    with atomic_write(path) as temporary, rc_context({"svg.hashsalt": "keras_mixer"}):
        figure.savefig(temporary, dpi=DOTS_PER_INCH, metadata=metadata)
    return path


def _with_known_ending(path):
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"Expected a path ending in {' or '.join(FORMATS)}, got {path}.")
    return path

"""Curves of training runs as SVG for a web page, which colours them for light and dark mode."""

import io
import re

from keras_mixer.inspect.figures import COLOURS, canvas

WIDTH, HEIGHT = 4.6, 2.7  # inches; text stays readable on a phone
FEW_POINTS = 10  # which are marked


def curves(runs, column, label, validation=True) -> str:
    """`column` of `metrics.csv` over the training steps, as an `<svg>` element.

    Empty if no run has the column, or none has two epochs.

    Args:
        runs: the columns of `metrics.csv` of each run.
        column: such as "accuracy".
        label: of the vertical axis.
        validation: draw the same column on the test images as a thick line, and the training images as a thin one.

    Raises:
        ValueError: matplotlib is not installed.
    """
    figure, ax = canvas(WIDTH, HEIGHT)
    parts = (("", 1.0, 0.6), ("val_", 2.0, 1.0)) if validation else (("", 1.5, 1.0),)
    for colour, metrics in zip(COLOURS * len(runs), runs, strict=False):
        for prefix, width, alpha in parts:
            if len(metrics.get(prefix + column, ())) > 1:
                marker = "o" if len(metrics["step"]) <= FEW_POINTS else None
                style = {"color": colour, "linewidth": width, "alpha": alpha, "marker": marker, "markersize": 4}
                ax.plot(metrics["step"], metrics[prefix + column], **style)
    if not ax.lines:
        return ""
    ax.set(xlabel="step", ylabel=label)
    ax.ticklabel_format(axis="y", scilimits=(-3, 4))
    ax.grid(alpha=0.25)
    return inline_svg(figure, label)


def inline_svg(figure, name) -> str:
    """A figure as an `<svg>` element without background: black is the colour of the text around it, and the colours of
    `COLOURS` are the CSS variables `--run-1`, `--run-2`, ...

    Args:
        figure: of matplotlib.
        name: makes the ids in the element different from those of other figures of the page.
    """
    from matplotlib import rc_context

    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    svg = buffer.getvalue()
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg[svg.index("<svg") :])  # not needed inside HTML
    svg = svg.replace("#000000", "currentColor")
    for number, colour in enumerate(COLOURS, start=1):
        svg = svg.replace(colour, f"var(--run-{number})")
    return svg

"""Accuracy against cost, with the Pareto front (Figs 2 and 3 of the paper)."""

import dataclasses

import numpy as np

from keras_mixer.inspect.figures import COLOURS, canvas
from keras_mixer.paper.published import TABLE_2, TABLE_3

TICKS = [digit * 10**power for power in range(-2, 8) for digit in (1, 2, 5)]  # of images per second
MARKERS = {"Mixer": "o", "ViT": "s", "BiT": "^"}


@dataclasses.dataclass(frozen=True)
class OwnPoint:
    """A point measured by the user.

    Attributes:
        name: label in the figure.
        accuracy: top-1 in percent.
        images_per_second: of inference, or None.
        core_days: of training, or None.
    """

    name: str
    accuracy: float
    images_per_second: float | None = None
    core_days: float | None = None


def pareto_front(cost, gain) -> np.ndarray:
    """`(n,), (n,) -> (k,)`: indices of the points on the Pareto front, by increasing cost.

    Args:
        cost: smaller is better.
        gain: larger is better.
    """
    order = np.lexsort((-np.asarray(gain), np.asarray(cost)))
    front, best = [], -np.inf
    for index in order:
        if gain[index] > best:
            front.append(int(index))
            best = gain[index]
    return np.array(front, int)


def pareto_figure(own=()):
    """ImageNet top-1 against inference speed and against pre-training cost, all rows of Tables 2 and 3.

    Args:
        own: `OwnPoint`s to add; they are not part of the front, since their hardware or data differ.
    """
    figure, axes = canvas(13.0, 5.6, 1, 2, sharey=True)
    for ax, field, label, direction in (
        (axes[0], "images_per_second", "images per second on one TPUv3 core", -1),
        (axes[1], "core_days", "pre-training, TPUv3-core-days", 1),
    ):
        rows = [row for row in (*TABLE_2, *TABLE_3) if getattr(row, field) is not None]
        costs = np.array([getattr(row, field) for row in rows], float)
        accuracy = np.array([row.imagenet for row in rows])
        for family, colour in zip((*MARKERS, "others"), COLOURS, strict=False):
            members = MARKERS if family == "others" else {family}
            chosen = [i for i, row in enumerate(rows) if (row.family in members) != (family == "others")]
            ax.scatter(
                costs[chosen], accuracy[chosen], marker=MARKERS.get(family, "x"), color=colour, label=family, s=28
            )
        front = pareto_front(direction * costs, accuracy)
        ax.plot(costs[front], accuracy[front], color=COLOURS[-1], linewidth=1, zorder=0, label="Pareto front")
        for number, index in enumerate(front):
            ax.annotate(
                rows[index].model,
                (costs[index], accuracy[index]),
                xytext=((4, -10), (5, 4))[number % 2],  # neighbors alternate below and above
                textcoords="offset points",
                fontsize=7,
            )
        for point in own:
            if getattr(point, field) is not None:
                ax.scatter([getattr(point, field)], [point.accuracy], marker="*", color="black", s=90)
                ax.annotate(
                    point.name,
                    (getattr(point, field), point.accuracy),
                    xytext=(6, 4),
                    textcoords="offset points",
                    fontsize=8,
                )
        ax.set(xscale="log", xlabel=label)
        ax.grid(alpha=0.25)
    axes[0].set_ylabel("ImageNet top-1, %")
    axes[1].legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def tradeoff_figure(points, part="test"):
    """Accuracy of your own models over their speed, with the Pareto front.

    Args:
        points: {name: (images per second, accuracy in percent)}.
        part: what the accuracy was measured on.
    """
    figure, ax = canvas(7.0, 4.8)
    speeds, accuracies = np.array(list(points.values()), float).T
    front = pareto_front(-speeds, accuracies)
    ax.plot(speeds[front], accuracies[front], "-", color=COLOURS[-1], linewidth=1, zorder=0, label="Pareto front")
    ax.scatter(speeds, accuracies, color=COLOURS[0], s=28)
    for name, point in points.items():
        ax.annotate(name, point, xytext=(5, 4), textcoords="offset points", fontsize=8)
    ax.set(xscale="log", xlabel="images per second, this machine", ylabel=f"{part} accuracy, %")
    ax.set_xticks([tick for tick in TICKS if speeds.min() / 2 < tick < 2 * speeds.max()])
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.minorticks_off()
    ax.margins(0.25, 0.15)  # for the names
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return figure


def throughput_figure(results):
    """Images per second over the batch size, one line per model.

    Args:
        results: {name: list of `keras_mixer.inspect.speed.Throughput`}.
    """
    figure, ax = canvas(6.0, 4.2)
    for colour, (name, measured) in zip(COLOURS * 4, results.items(), strict=False):
        sizes, speeds = zip(*((item.batch_size, item.images_per_second) for item in measured), strict=True)
        ax.plot(sizes, speeds, "o-", color=colour, label=name)
    ax.set(xscale="log", yscale="log", xlabel="batch size", ylabel="images per second")
    ax.set_xticks(sizes, [str(size) for size in sizes])
    ax.minorticks_off()
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return figure

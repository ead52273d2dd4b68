"""Figs 2 and 3: ImageNet accuracy against inference speed and pre-training cost, with the Pareto front.

Source: Tables 2 and 3 of arXiv 2105.01601, version 4, as `published.csv`: accuracies in percent, after fine-tuning if
pre-trained on other data; images per second on one TPUv3 core at the best batch size; TPUv3-core-days.
"""

import csv
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import tyro

PUBLISHED = Path(__file__).with_name("published.csv")
MARKERS = {"Mixer": "o", "ViT": "s", "BiT": "^", "others": "x"}


def pareto_front(cost, gain):
    """`(n,), (n,) -> (k,)`: indices of the points that no other beats in both, by increasing cost."""
    front, best = [], -np.inf
    for index in np.lexsort((-np.asarray(gain), np.asarray(cost))):
        if gain[index] > best:
            front.append(int(index))
            best = gain[index]
    return np.array(front, int)


def draw_panel(ax, column, sign, own):
    """Accuracy over one column of the tables; `sign` is -1 if more of it is better."""
    table = csv.DictReader(PUBLISHED.read_text(encoding="utf-8").splitlines())
    rows = [row for row in table if row[column]]
    costs, accuracies = (np.array([float(row[name]) for row in rows]) for name in (column, "imagenet"))
    families = np.array([row["model"].split("-")[0] for row in rows])
    families[~np.isin(families, list(MARKERS))] = "others"
    for family, marker in MARKERS.items():
        chosen = families == family
        ax.scatter(costs[chosen], accuracies[chosen], marker=marker, label=family, s=28)
    front = pareto_front(sign * costs, accuracies)
    ax.plot(costs[front], accuracies[front], color="dimgray", linewidth=1, zorder=0, label="Pareto front")
    for i, after in zip(front, (*front[1:], None), strict=True):  # names stand beyond the front, where no point is
        size = rows[i]["image_size"]
        name = f"{rows[i]['model']}, {rows[i]['pretraining']}" + (f", {size} px" if size not in ("", "224") else "")
        level = after is not None and abs(np.log(costs[after] / costs[i])) < 0.1  # so that neighbors do not overlap
        style = {"rotation": 0 if level else -30 * sign, "ha": "left" if sign < 0 else "right", "fontsize": 7}
        place = {"xytext": (-4 * sign, -3 if level else 5), "textcoords": "offset points", "rotation_mode": "anchor"}
        ax.annotate(name, (costs[i], accuracies[i]), **place, **style)
    for name, accuracy, cost in own:
        ax.scatter([cost], [accuracy], marker="*", color="black", s=90)
        ax.annotate(name, (cost, accuracy), (6, 4), textcoords="offset points", fontsize=8)
    ax.set(xscale="log", xmargin=0.2)


def main(output: Path, own: tuple[str, ...] = ()):
    """Figs 2, 3: accuracy against speed and pre-training cost, Tables 2 and 3 of the paper and points of your own.

    Args:
        output: the .png or .svg file.
        own: points as NAME,ACCURACY,IMAGES_PER_SECOND,CORE_DAYS; accuracy in percent; the last two may be empty. They
            are not counted in the front, since their hardware or data differ.
    """
    points = [point.split(",") for point in own]
    figure, axes = plt.subplots(1, 2, figsize=(13, 5.6), sharey=True)
    for ax, column, sign, place in ((axes[0], "images_per_second", -1, 2), (axes[1], "core_days", 1, 3)):
        here = [(point[0], float(point[1]), float(point[place])) for point in points if point[place].strip()]
        draw_panel(ax, column, sign, here)
    axes[0].set(xlabel="images per second on one TPUv3 core", ylabel="ImageNet top-1, %")
    axes[1].set(xlabel="pre-training, TPUv3-core-days")
    axes[1].legend(fontsize=8, loc="lower right")
    figure.savefig(output)


if __name__ == "__main__":
    tyro.cli(main)

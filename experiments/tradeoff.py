"""Fig 3 for your own runs: test accuracy over the speed measured on this machine, with the Pareto front."""

import json
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import tyro

from experiments.linear_cost import examples_per_second
from experiments.networks import open_model
from experiments.pareto import pareto_front
from experiments.training import print_table


def figure_of(points, part):
    """`{name: (images per second, accuracy in percent)}` as points; `part` is what the accuracy was measured on."""
    figure, ax = plt.subplots(figsize=(7, 4.8))
    speeds, accuracies = np.array(list(points.values()), float).T
    front = pareto_front(-speeds, accuracies)
    ax.plot(speeds[front], accuracies[front], color="dimgray", linewidth=1, zorder=0, label="Pareto front")
    ax.scatter(speeds, accuracies, s=28)
    for name, point in points.items():
        ax.annotate(name, point, xytext=(5, 4), textcoords="offset points", fontsize=8)
    ax.set(xscale="log", xlabel="images per second, this machine", ylabel=f"{part} accuracy, %")
    ticks = [digit * 10**power for power in range(7) for digit in (1, 2, 5)]
    ax.set_xticks([tick for tick in ticks if speeds.min() / 2 < tick < 2 * speeds.max()])
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.minorticks_off()
    ax.set_xlim(speeds.min() / 1.6, speeds.max() * 1.6)  # room for names, and for a tick
    ax.margins(y=0.15)
    ax.legend()
    return figure


def main(runs: tyro.conf.Positional[tuple[Path, ...]], output: Path, batch_size: int = 32, seconds: float = 5.0):
    """Plot the accuracy of finished runs over their measured speed, with the Pareto front.

    Args:
        runs: folders of finished runs on the same test images; any Keras model.
        output: the .png or .svg file.
        batch_size: images per call.
        seconds: how long to measure each model.
    """
    results = {run.name: json.loads((run / "results.json").read_text(encoding="utf-8")) for run in runs}
    data = {json.loads((run / "config.json").read_text(encoding="utf-8"))["data"] for run in runs}
    tests = {(result["test_images"], result["part"]) for result in results.values()}
    if len(results) < len(runs) or len(tests) != 1 or len(data) != 1:
        raise ValueError(f"Expected runs of different names on the same test images, got {list(results)} on {data}.")
    points, rows = {}, []
    for name, run in zip(results, runs, strict=True):
        speed, accuracy = examples_per_second(open_model(run), batch_size, seconds), results[name]["accuracy"]
        points[name] = speed, 100 * accuracy
        rows.append((name, f"{results[name]['parameters']:,}", f"{speed:,.0f}", f"{accuracy:.2%}"))
        keras.backend.clear_session()
    print_table(("run", "parameters", "images/s", "accuracy"), rows)
    figure_of(points, tests.pop()[1]).savefig(output)


if __name__ == "__main__":
    tyro.cli(main)

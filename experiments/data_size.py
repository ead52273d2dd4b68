"""Fig 2, right: accuracy over the amount of training data, for equal numbers of steps.

Source: section 3 of arXiv 2105.01601: 3, 10, 30 and 100 % of JFT-300M for the same number of steps. The paper also
stops early by a validation set, and reports 5-shot accuracy on ImageNet; neither is done here.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Literal

import matplotlib.pyplot as plt
import numpy as np
import tyro

from experiments.networks import NETWORKS, build_network
from experiments.training import Training


def figure_of(results, steps):
    """Accuracy over `{number of images: {network: (seeds, points)}}`: a line for each network, a dot for each seed."""
    figure, ax = plt.subplots(figsize=(6, 4.2))
    for network in next(iter(results.values())):
        finals = 100 * np.array([curves[network] for curves in results.values()])[..., -1]  # (sizes, seeds)
        (line,) = ax.plot(list(results), finals.mean(1), linewidth=2, label=network)
        ax.plot(list(results), finals, "o", color=line.get_color(), markersize=4, alpha=0.7)
    ax.set(xscale="log", xmargin=0.08, title=f"{steps:,} steps for every size")
    ax.set(xlabel="training images", ylabel="test accuracy, %")
    ax.set_xticks(list(results), [f"{count:,}\n{count / max(results):.0%}" for count in results])
    ax.minorticks_off()
    ax.legend()
    return figure


def main(
    output: Path,
    workdir: Path,
    training: Training = Training(points=1, seeds=(0,)),  # noqa: B008 - frozen
    fractions: tuple[float, ...] = (0.05, 0.1, 0.3, 1.0),
    networks: tuple[Literal["mixer", "resnet", "vit"], ...] = ("mixer",),
):
    """Fig 2, right: train networks on fractions of the training data, each for the same number of steps.

    Args:
        output: the .png or .svg file.
        workdir: folder of the runs and of data_size.jsonl; rerun the same command to resume.
        training: of all networks.
        fractions: of the training data; the paper's are 0.03 0.1 0.3 1.
        networks: networks to train.
    """
    results = {}
    for fraction in fractions:
        images = round(fraction * training.source.train.size)
        part = dataclasses.replace(training, training_images=images)
        contestants = {
            NETWORKS[network]: functools.partial(build_network, network, part.settings, len(part.source.class_names))
            for network in networks
        }
        results[images] = part.compare(workdir / "data_size.jsonl", contestants, workdir)
    figure_of(results, training.steps).savefig(output)


if __name__ == "__main__":
    tyro.cli(main, config=(tyro.conf.OmitArgPrefixes,))

"""Avg 5 of the paper's tables: the mean top-1 over five data sets, each with its own fine-tuned model."""

import dataclasses
from pathlib import Path

import numpy as np

FIVE = {  # name in the paper: name in TensorFlow Datasets
    "ImageNet": "imagenet2012",
    "CIFAR-10": "cifar10",
    "CIFAR-100": "cifar100",
    "Pets": "oxford_iiit_pet",
    "Flowers": "oxford_flowers102",
}
TEST_SPLITS = {"ImageNet": "validation"}  # the images of its split "test" have no labels


@dataclasses.dataclass(frozen=True)
class AverageOfFive:
    """The result of `average_of_five`.

    Attributes:
        accuracy: mean top-1 of the runs on each data set that has runs, in the paper's order.
        missing: data sets without a run.
    """

    accuracy: dict[str, float]
    missing: tuple[str, ...]

    @property
    def average(self) -> float | None:
        """The paper's Avg 5; None if a data set is missing, since the mean of fewer is a different quantity."""
        return None if self.missing else float(np.mean(list(self.accuracy.values())))


def average_of_five(results) -> AverageOfFive:
    """Collects the accuracies of runs.

    Args:
        results: `(data, top-1)` of each run; data is a TensorFlow Datasets name, or a folder of that name. Multiple
            runs on one data set (seeds) are averaged.

    Raises:
        ValueError: a run is not on one of the five.

    Source: section 3 of arXiv 2105.01601.
    """
    found: dict[str, list[float]] = {name: [] for name in FIVE}
    for data, accuracy in results:
        found[paper_name(data)].append(accuracy)
    present = {name: float(np.mean(values)) for name, values in found.items() if values}
    return AverageOfFive(present, tuple(name for name in FIVE if name not in present))


def paper_name(data) -> str:
    """`"oxford_flowers102" -> "Flowers"`, also from `"oxford_flowers102/2.1.1"` or a path.

    Raises:
        ValueError: it is not one of the five; lists them.
    """
    parts = Path(data).parts
    for name, key in FIVE.items():
        if key in parts or any(part.startswith(f"{key}:") for part in parts):
            return name
    raise ValueError(f"Expected one of the five data sets {', '.join(FIVE.values())}, got {data!r}.")

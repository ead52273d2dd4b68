"""Avg 5 of the paper's tables: the mean top-1 over five data sets, each with its own fine-tuned model.

Source: section 3 of arXiv 2105.01601.
"""

import json
from pathlib import Path

import numpy as np
import tyro

from experiments.training import print_table

FIVE = {  # name in the paper: name in TensorFlow Datasets and the paper's options (ImageNet's test split has no labels)
    "ImageNet": "imagenet2012 --test-split validation --steps 20000",
    "CIFAR-10": "cifar10",
    "CIFAR-100": "cifar100",
    "Pets": "oxford_iiit_pet --steps 500 --warmup-steps 100",
    "Flowers": "oxford_flowers102 --train-split train+validation --steps 500 --warmup-steps 100",
}


def paper_name(data):
    """`"oxford_flowers102" -> "Flowers"`, also from `"oxford_flowers102:2.1.1"` or a path."""
    parts = {part.split(":")[0] for part in Path(data).parts}
    for name, key in FIVE.items():
        if key.split()[0] in parts:
            return name
    raise ValueError(f"Expected one of the five data sets {', '.join(FIVE)}, got {data!r}.")


def average_of_five(results):
    """`(mean over the data sets of the mean over their runs, data sets without a run)` of the `(data, top-1)` of runs.

    The mean is None unless all five are there: of fewer it is a different quantity.
    """
    found = {name: [] for name in FIVE}
    for data, accuracy in results:
        found[paper_name(data)].append(accuracy)
    missing = [name for name, accuracies in found.items() if not accuracies]
    return None if missing else float(np.mean([np.mean(accuracies) for accuracies in found.values()])), missing


def main(runs: tyro.conf.Positional[tuple[Path, ...]]):
    """Mean top-1 over ImageNet, CIFAR-10, CIFAR-100, Pets and Flowers; lists those that are missing.

    Args:
        runs: folders of finished runs, each fine-tuned on one of the five data sets.
    """
    results, rows = [], []
    for run in runs:
        config, result = (json.loads((run / f"{name}.json").read_text()) for name in ("config", "results"))
        if result["part"] != "test":
            raise ValueError(f"Avg 5 needs test images, but {run} was evaluated on {result['part']} training images.")
        results.append((config["data"], result["accuracy"]))
        shown = [result[key] for key in ("test_images", "evaluation_crop", "image_size")]
        rows.append((paper_name(config["data"]), f"{result['accuracy']:.2%}", *shown, run))
    average, missing = average_of_five(results)
    print_table(("data set", "top-1", "images", "crop", "input", "run"), rows)
    print(f"\nAvg 5: {average:.2%}" if average else "\nNo Avg 5. To fine-tune on the data sets that are missing:")
    for name in missing:
        folder = FIVE[name].split()[0]
        print(f"  {name}: keras-mixer train finetune --data {FIVE[name]} --workdir runs/{folder}")


if __name__ == "__main__":
    tyro.cli(main)

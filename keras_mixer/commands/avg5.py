"""Avg 5 of the paper from finished runs: avg5 RUN..."""

import json
from pathlib import Path
from typing import Annotated

import tyro

from keras_mixer.commands.terminal import parse, print_table
from keras_mixer.paper.average_of_five import FIVE, average_of_five, paper_name
from keras_mixer.training.run_directory import read_recipe


def run(arguments):
    """Avg 5 of the paper from finished runs: avg5 RUN..."""
    parse(avg5, "avg5", arguments)


def avg5(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")],
):
    """Mean top-1 over ImageNet, CIFAR-10, CIFAR-100, Pets and Flowers, saying which of them are missing.

    Args:
        runs: folders of finished runs, each fine-tuned on one of the five data sets.
    """
    if not runs:
        raise ValueError(f"Name finished runs on the five data sets {', '.join(FIVE.values())}.")
    rows, results = [], []
    for folder in runs:
        file = folder / "results.json"
        if not file.is_file():
            raise ValueError(f"{folder} is no finished run: it has no results.json.")
        content, recipe = json.loads(file.read_text(encoding="utf-8")), read_recipe(folder)
        results.append((recipe.data, content["accuracy"]))
        rows.append(
            (
                paper_name(recipe.data),
                f"{content['accuracy']:.2%}",
                f"{content['test_images']:,} of {recipe.test_split}",
                content["evaluation_crop"],
                " x ".join(map(str, content["image_size"])),
                str(folder),
            )
        )
    result = average_of_five(results)
    print_table(("data set", "top-1", "images", "crop", "input", "run"), rows)
    if result.average is not None:
        print(f"\nAvg 5: {result.average:.2%}")
        return
    print(f"\nNo Avg 5: {len(result.missing)} of the five data sets are missing. To fine-tune on them:")
    for name in result.missing:
        print(f"  {name}: keras-mixer train finetune --data {FIVE[name]} --workdir runs/{FIVE[name]}")

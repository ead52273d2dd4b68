"""Try learning rates on held-out training data, then train: sweep [RECIPE]."""

import dataclasses
from pathlib import Path
from typing import Annotated

from keras_mixer.commands.terminal import print_table, read_options, take_recipe
from keras_mixer.fields import SOME, Positive, check_fields
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.sweep import sweep


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a person can choose for a sweep."""

    recipe: Recipe
    learning_rates: Annotated[tuple[Positive, ...], SOME] = (0.003, 0.01, 0.03, 0.06)
    """Peak learning rates to try, greater than 0; the default is the paper's grid for fine-tuning with SGD."""
    workdir: Path | None = None
    """Folder of all runs; runs/NAME_sweep by default. Call again in the same way to resume."""
    skip_final: bool = False
    """Leave out the last run, on all training data with the best rate."""

    def __post_init__(self):
        check_fields(self)


def run(arguments):
    """Try learning rates on held-out training data, then train: sweep [RECIPE]."""
    recipe, arguments = take_recipe(arguments, "finetune")
    options = read_options(
        Sweep,
        f"sweep {recipe.name}",
        arguments,
        description="Trains once for each learning rate with a part of the training images held out, then once more "
        "with the best on all. Options beside those below are the recipe's.",
        default=Sweep(dataclasses.replace(recipe, holdout=0.1)),
    )
    recipe = options.recipe
    workdir = options.workdir or Path("runs", f"{recipe.name}_sweep")
    result = sweep(
        dataclasses.replace(recipe, holdout=0.0),
        options.learning_rates,
        workdir=workdir,
        holdout=recipe.holdout,
        final=not options.skip_final,
    )
    rows = [(f"{rate:g}", "diverged" if value is None else f"{value:.2%}") for rate, value in result.accuracies.items()]
    print_table(("learning rate", f"held-out accuracy ({recipe.evaluation_crop})"), rows)
    print(f"\nBest: {result.best:g}")
    if result.final is not None:
        accuracy = result.final.metrics["accuracy"]
        print(
            f"Test accuracy ({recipe.evaluation_crop}) after training on everything: {accuracy:.2%} ({workdir}/final)"
        )

"""Choosing the learning rate the paper's way: a grid on a held-out part of the training data, then all of it."""

import dataclasses
from pathlib import Path
from typing import Annotated

from keras_mixer.fields import SOME, Fraction, Positive, check
from keras_mixer.files import write_json
from keras_mixer.training.callbacks import TrainingDiverged
from keras_mixer.training.loop import FitResult, fit
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.recipes import resolve


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """What `sweep` gives back.

    Attributes:
        accuracies: held-out accuracy for each learning rate; None where training diverged.
        best: the learning rate with the highest.
        final: the run on all training data with it, measured on the test part; None if it was not asked for.
    """

    accuracies: dict[float, float | None]
    best: float
    final: FitResult | None


def sweep(recipe: Recipe | str, learning_rates, *, workdir, holdout=0.1, final=True, log=print, **overrides):
    """Trains a recipe once for each learning rate and once more with the best.

    The runs lie in `workdir/lr_RATE` and `workdir/final`; a sweep that was stopped goes on when called again in the
    same way. `workdir/sweep.json` sums up.

    Args:
        recipe: a `Recipe`, or the name of one in `RECIPES`.
        learning_rates: peak rates to try; the paper's are 0.003, 0.01, 0.03 and 0.06.
        workdir: folder of all runs.
        holdout: fraction of the training images that the rates are compared on, in (0, 1); the paper takes 10 % of Pets
            and Flowers, 2 % of CIFAR, 1 % of ImageNet.
        final: train on everything at the end.
        log: called with each line of text for the user.
        **overrides: fields of the recipe to replace.

    Returns:
        A `SweepResult`.

    Raises:
        ValueError: no rate was given, a rate or the fraction is out of range, or no rate trained to the end; else as
            `fit`.

    Source: section 3 of arXiv 2105.01601; the grids are those of its appendix and of ViT (arXiv 2010.11929).
    """
    recipe = resolve(recipe, **overrides)
    check("learning_rates", tuple(learning_rates), Annotated[tuple[Positive, ...], SOME])
    check("holdout", holdout, Fraction)
    rates = sorted(set(learning_rates))
    workdir = Path(workdir)
    accuracies: dict[float, float | None] = {}
    for rate in rates:
        log(f"Learning rate {rate:g}, {holdout:.0%} of the training images held out:")
        run = {"learning_rate": rate, "holdout": holdout}
        try:
            accuracies[rate] = fit(recipe, workdir=workdir / f"lr_{rate:g}", log=log, **run).metrics["accuracy"]
        except TrainingDiverged as error:
            log(str(error))
            accuracies[rate] = None
    reached = {rate: accuracy for rate, accuracy in accuracies.items() if accuracy is not None}
    if not reached:
        raise ValueError(f"Training diverged at every learning rate ({', '.join(map(str, rates))}); try lower ones.")
    best = max(reached, key=lambda rate: reached[rate])  # the lowest of equals
    summary = {"holdout": holdout, "held_out_accuracy": {str(rate): value for rate, value in accuracies.items()}}
    write_json(workdir / "sweep.json", {**summary, "best": best})
    if not final:
        return SweepResult(accuracies, best, None)
    log(f"Best learning rate {best:g}; now on all training images:")
    return SweepResult(accuracies, best, fit(recipe, workdir=workdir / "final", log=log, learning_rate=best))

"""Learning-rate sweep as in the paper: compare rates on held-out training images, then train on all of them."""

import dataclasses
from typing import Annotated

from keras_mixer.training.callbacks import TrainingDiverged
from keras_mixer.training.fit import fit
from keras_mixer.training.recipe import NOT_EMPTY, Fraction, Positive, check
from keras_mixer.training.run import FitResult


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """The result of `sweep`."""

    accuracies: dict[float, float | None]  # held-out, for each learning rate; None if training diverged
    best: float  # the learning rate with the highest accuracy
    final: FitResult | None  # the run on all training images with the best rate


def sweep(recipe, learning_rates, *, workdir, holdout=0.1, final=True, log=print, **options) -> SweepResult:
    """Trains a recipe once for each learning rate, then once more with the best; other options are those of `fit`.

    The runs are in `workdir/lr_RATE` and `workdir/final_RATE`, whose last epoch is kept: no images choose another. The
    same call resumes them. ValueError if a value is out of range, or training diverged at every rate.

    Source: section 3 of arXiv 2105.01601, which holds out 10 % of Pets and Flowers, 2 % of CIFAR and 1 % of ImageNet.
    """
    rates = sorted(set(check("learning_rates", learning_rates, Annotated[tuple[Positive, ...], NOT_EMPTY])))
    holdout = check("holdout", holdout, Fraction)
    options["log"] = log
    accuracies: dict[float, float | None] = {}
    for rate in rates:
        log(f"Learning rate {rate:g}, {holdout:.0%} of the training images held out:")
        try:
            given = options | {"learning_rate": rate, "holdout": holdout}
            accuracies[rate] = fit(recipe, workdir=f"{workdir}/lr_{rate:g}", **given).metrics["accuracy"]
        except TrainingDiverged as error:
            log(str(error))
            accuracies[rate] = None
    reached = {rate: accuracy for rate, accuracy in accuracies.items() if accuracy is not None}
    if not reached:
        raise ValueError(f"Training diverged at every learning rate ({', '.join(map(str, rates))}); try lower ones.")
    best = max(reached, key=lambda rate: reached[rate])  # the lowest rate in a tie
    if not final:
        return SweepResult(accuracies, best, None)
    log(f"Best learning rate {best:g}; training on all training images:")
    own = {"learning_rate": best, "holdout": 0.0, "keep": "last", "patience": None}  # not chosen on test images
    return SweepResult(accuracies, best, fit(recipe, workdir=f"{workdir}/final_{best:g}", **options | own))

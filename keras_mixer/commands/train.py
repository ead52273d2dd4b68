"""Train a recipe, or resume it: train [RECIPE]."""

import dataclasses
import time
from pathlib import Path

import tyro

from keras_mixer.commands.terminal import CONFIG, print_table
from keras_mixer.training.loop import fit
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.recipes import RECIPES, resolve


@dataclasses.dataclass(frozen=True)
class Training:
    """What a person can choose for a run."""

    recipe: Recipe
    workdir: Path | None = None
    """Folder of the run; runs/NAME by default. Call again in the same way to resume."""
    skip_corrupt: bool = False
    """Leave image files out that cannot be decoded, instead of stopping."""


def run(arguments):
    """Train a recipe, or resume it: train [RECIPE]."""
    name = "digits"
    if arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
    default = Training(resolve(name))
    options = tyro.cli(
        Training,
        prog=f"keras-mixer train {name}",
        description=f"Train recipe {name!r}; all recipes: {', '.join(RECIPES)}. Defaults below are the recipe's.",
        default=default,
        args=arguments,
        config=CONFIG,
    )
    began = time.perf_counter()
    workdir = options.workdir or Path("runs", options.recipe.name)
    result = fit(options.recipe, workdir=workdir, skip_corrupt=options.skip_corrupt)
    metrics = result.metrics
    print_table(
        ("test accuracy", "top-5", "loss", "images", "crop", "parameters", "training", "command"),
        [
            (
                f"{metrics['accuracy']:.2%}",
                f"{metrics['top5']:.2%}",
                f"{metrics['loss']:.4f}",
                str(metrics["test_images"]),
                metrics["evaluation_crop"],
                f"{metrics['parameters']:,}",
                f"{metrics['seconds']:.0f} s",
                f"{time.perf_counter() - began:.0f} s",
            )
        ],
    )
    print(f"\nNext:\n  keras-mixer evaluate {workdir}\n  keras-mixer predict {workdir} IMAGE...")
    print(f"  keras-mixer export {workdir} --format saved_model\n  tensorboard --logdir {workdir}/tensorboard")

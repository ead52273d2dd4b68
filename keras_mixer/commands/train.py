"""Train a recipe, or resume it: train [RECIPE]."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Annotated

from keras_mixer.commands.terminal import print_table, read_options, take_recipe
from keras_mixer.fields import ASCENDING, Count, CountFrom0, check_fields
from keras_mixer.training.distribution import JOIN_VARIABLE, check_recipe, choose_devices, join_processes
from keras_mixer.training.loop import fit
from keras_mixer.training.plan import plan
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.recipes import RECIPES


@dataclasses.dataclass(frozen=True)
class Training:
    """What a person can choose for a run."""

    recipe: Recipe
    workdir: Path | None = None
    """Folder of the run; runs/NAME by default. Call again in the same way to resume."""
    skip_corrupt: bool = False
    """Leave image files out that cannot be decoded, instead of stopping."""
    dry_run: bool = False
    """Print what would be done and what it costs, without touching data."""
    profile_steps: Annotated[tuple[CountFrom0, CountFrom0], ASCENDING] | None = None
    """First and last step, counted from now, to profile for TensorBoard; at least 0 and ascending."""
    job_addresses: str | None = None
    """host:port of the first of several processes that train together (JAX); "auto" on a Cloud TPU pod or in Slurm."""
    num_processes: Count | None = None
    """How many processes train together, at least 1."""
    process_id: CountFrom0 | None = None
    """Number of this process, at least 0."""

    def __post_init__(self):
        check_fields(self)


def run(arguments):
    """Train a recipe, or resume it: train [RECIPE]."""
    recipe, arguments = take_recipe(arguments, "digits")
    options = read_options(
        Training,
        f"train {recipe.name}",
        arguments,
        description=f"Train recipe {recipe.name!r}; all recipes: {', '.join(RECIPES)}. Defaults are the recipe's.",
        default=Training(recipe),
    )
    if options.job_addresses == "auto":
        join_processes()
    elif options.job_addresses or os.environ.get(JOIN_VARIABLE):
        join_processes(options.job_addresses, options.num_processes, options.process_id)
    if options.dry_run:
        _print_plan(options.recipe)
        return
    began = time.perf_counter()
    workdir = options.workdir or Path("runs", options.recipe.name)
    result = fit(
        options.recipe, workdir=workdir, skip_corrupt=options.skip_corrupt, profile_steps=options.profile_steps
    )
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


def _print_plan(recipe):
    devices = choose_devices(recipe.devices, recipe.xla_on_cpu)
    check_recipe(recipe, devices)
    numbers = plan(recipe, devices.count)
    print_table(("field", "value"), [(name, str(value)) for name, value in dataclasses.asdict(recipe).items()])

    def known(value):
        return f"{value:,}" if value is not None else "unknown before the data are read"

    rows = [
        ("training images", known(numbers.examples)),
        ("classes", known(numbers.classes)),
        ("steps per epoch", known(numbers.steps_per_epoch)),
        ("steps", known(numbers.total_steps)),
        ("devices", devices.description),
        ("images a device", f"{recipe.global_batch_size // devices.count:,}"),
        ("parameters", f"{numbers.parameters:,}{'' if numbers.classes else ' without the head'}"),
        ("GMACs an image", f"{numbers.macs / 1e9:.3f}"),
        ("memory of weights and optimizer", f"{numbers.weight_bytes / 1e9:.2f} GB"),
        ("memory of activations, estimated", f"{numbers.activation_bytes / 1e9:.2f} GB a device"),
    ]
    print()
    print_table(("plan", ""), rows)

"""The commands train and sweep. The first argument names a recipe; its fields are options, its values the defaults."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated

from keras_mixer.cli.terminal import print_table, read_options, take_recipe
from keras_mixer.fields import ASCENDING, SOME, Count, CountFrom0, Positive, settings
from keras_mixer.storage import address_of
from keras_mixer.training.devices import check_recipe, choose_devices, join_processes
from keras_mixer.training.fit import fit
from keras_mixer.training.plan import plan
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.recipes import RECIPES
from keras_mixer.training.sweep import sweep as run_sweep


@settings
class Processes:
    """Options of processes that train together."""

    job_addresses: str | None = None
    """host:port of the first of multiple processes that train together (JAX); "auto" on a Cloud TPU pod or in Slurm."""
    num_processes: Count | None = None
    """Number of processes that train together, at least 1."""
    process_id: CountFrom0 | None = None
    """Index of this process, at least 0."""

    def join(self):
        """Connects this process to the others, if there are any."""
        join_processes(self.job_addresses, self.num_processes, self.process_id)


@settings
class Training:
    """Options of `train`."""

    recipe: Recipe
    workdir: Path | None = None
    """Folder of the run, or an address such as gs://BUCKET/RUN; runs/NAME by default. Rerun the same command to
    resume."""
    skip_corrupt: bool = False
    """Leave out image files that cannot be decoded, instead of stopping."""
    dry_run: bool = False
    """Print the plan and its cost, without reading the data."""
    profile_steps: Annotated[tuple[CountFrom0, CountFrom0], ASCENDING] | None = None
    """First and last step, counted from now, to profile for TensorBoard; at least 0 and ascending."""
    processes: Processes = Processes()


def train(arguments):
    """Parses the options of a run, trains, and prints the result."""
    recipe, arguments = take_recipe(arguments, "digits")
    options = read_options(
        Training,
        f"train {recipe.name}",
        arguments,
        description=f"Train recipe {recipe.name!r}; all recipes: {', '.join(RECIPES)}. Defaults are the recipe's.",
        default=Training(recipe),
    )
    options.processes.join()
    if options.dry_run:
        _print_plan(options.recipe)
        return
    began = time.perf_counter()
    workdir = address_of(options.workdir) or options.workdir or Path("runs", options.recipe.name)
    result = fit(
        options.recipe, workdir=workdir, skip_corrupt=options.skip_corrupt, profile_steps=options.profile_steps
    )
    metrics = result.metrics
    print_table(
        (f"{metrics['part']} accuracy", "top-5", "loss", "images", "crop", "parameters", "training", "command"),
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
    page = "report.html" if address_of(workdir) else f"{workdir}/report.html"
    print(f"Report:\n  keras-mixer report {workdir} --output {page} --open")


def _print_plan(recipe):
    devices = choose_devices(recipe.devices, recipe.compiles_on_cpu())
    check_recipe(recipe, devices)
    numbers = plan(recipe)
    print_table(("field", "value"), [(name, str(value)) for name, value in dataclasses.asdict(recipe).items()])

    def known(value):
        return f"{value:,}" if value is not None else "unknown before the data are read"

    rows = [
        ("training images", known(numbers.examples)),
        ("classes", known(numbers.classes)),
        ("steps per epoch", known(numbers.steps_per_epoch)),
        ("steps", known(numbers.total_steps)),
        ("devices", devices.description),
        ("images per device", f"{recipe.global_batch_size // devices.count:,}"),
        ("parameters", f"{numbers.parameters:,}{'' if numbers.classes else ' without the head'}"),
        ("GMACs per image", f"{numbers.macs / 1e9:.3f}{' x 2 passes, SAM' if recipe.sam_rho else ''}"),
        ("memory of weights and optimizer", f"{numbers.weight_bytes / 1e9:.2f} GB"),
    ]
    print()
    print_table(("plan", ""), rows)


@settings
class Sweep:
    """Options of `sweep`."""

    recipe: Recipe
    learning_rates: Annotated[tuple[Positive, ...], SOME] = (0.003, 0.01, 0.03, 0.06)
    """Peak learning rates to try, greater than 0; the default is the paper's grid for fine-tuning with SGD."""
    workdir: Path | None = None
    """Folder of all runs, or an address such as gs://BUCKET/SWEEP; runs/NAME_sweep by default. Rerun the same command
    to resume."""
    skip_final: bool = False
    """Skip the last run, on all training images with the best rate."""
    skip_corrupt: bool = False
    """Leave out image files that cannot be decoded, instead of stopping."""
    processes: Processes = Processes()


def sweep(arguments):
    """Parses the options of a sweep, tries every learning rate, and prints a table of the results."""
    recipe, arguments = take_recipe(arguments, "finetune")
    options = read_options(
        Sweep,
        f"sweep {recipe.name}",
        arguments,
        description="Trains once for each learning rate with a fraction of the training images held out, then once "
        "more on all of them with the best rate. The other options are the recipe's.",
        default=Sweep(dataclasses.replace(recipe, holdout=0.1)),
    )
    options.processes.join()
    recipe = options.recipe
    workdir = address_of(options.workdir) or options.workdir or Path("runs", f"{recipe.name}_sweep")
    result = run_sweep(
        dataclasses.replace(recipe, holdout=0.0),
        options.learning_rates,
        workdir=workdir,
        holdout=recipe.holdout,
        final=not options.skip_final,
        skip_corrupt=options.skip_corrupt,
    )
    rows = [(f"{rate:g}", "diverged" if value is None else f"{value:.2%}") for rate, value in result.accuracies.items()]
    print_table(("learning rate", f"held-out accuracy ({recipe.evaluation_crop})"), rows)
    print(f"\nBest: {result.best:g}")
    if result.final is not None:
        accuracy = result.final.metrics["accuracy"]
        print(
            f"Test accuracy ({recipe.evaluation_crop}) after training on all images: {accuracy:.2%} ({workdir}/final)"
        )

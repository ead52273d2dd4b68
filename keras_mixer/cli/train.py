"""The commands train and sweep. The first argument names a recipe; its fields are options, its values the defaults."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, ClassVar

from keras_mixer.cli.terminal import print_table, quoted
from keras_mixer.files import as_address
from keras_mixer.inspect.plan import plan
from keras_mixer.training.devices import check_recipe, choose_devices, join_processes
from keras_mixer.training.fit import fit
from keras_mixer.training.recipe import NOT_EMPTY, Count, CountFrom0, Positive, Recipe, settings
from keras_mixer.training.recipes import RECIPES, resolve
from keras_mixer.training.sweep import sweep


@settings
class Train:
    """Train a recipe."""

    RECIPE: ClassVar[str] = "digits"  # if none is named
    CHANGED: ClassVar[dict[str, Any]] = {}  # fields of a recipe with other defaults

    recipe: Recipe
    workdir: str | None = None
    """Folder of the run, or of all runs of a sweep, or an address such as gs://BUCKET/RUN; runs/NAME by default, or
    runs/NAME_sweep. Rerun the same command to resume."""
    skip_corrupt: bool = False  # leave out image files that cannot be decoded, instead of stopping
    dry_run: bool = False  # print the plan and its cost, without reading the data
    job_addresses: str | None = None
    """host:port of the first of multiple processes that train together (JAX); "auto" on a Cloud TPU pod or in Slurm."""
    num_processes: Count | None = None  # number of processes that train together, at least 1
    process_id: CountFrom0 | None = None  # index of this process, at least 0

    @classmethod
    def take_recipe(cls, arguments):
        """The arguments after the name of a recipe, and what `tyro.cli` needs to know of the recipe."""
        named = arguments and not arguments[0].startswith("-")
        recipe = resolve(arguments[0] if named else cls.RECIPE)
        about = f"{cls.__doc__} Defaults are those of recipe {recipe.name!r}; all recipes: {', '.join(RECIPES)}."
        default = cls(dataclasses.replace(recipe, **cls.CHANGED))
        return arguments[bool(named) :], {"default": default, "description": about}

    def __call__(self):
        join_processes(self.job_addresses, self.num_processes, self.process_id)
        if self.dry_run:
            return print_plan(self.recipe)
        self.train()

    def train(self):
        """Trains and prints the result."""
        workdir = self.workdir or Path("runs", self.recipe.name)
        metrics = fit(self.recipe, workdir=workdir, skip_corrupt=self.skip_corrupt).metrics
        header = (f"{metrics['part']} accuracy", "top-5", "loss", "images", "crop", "parameters", "training")
        loss = "-" if metrics["loss"] is None else f"{metrics['loss']:.4f}"  # None stands for NaN in JSON files
        scores = f"{metrics['accuracy']:.2%}", f"{metrics['top5']:.2%}", loss
        how = str(metrics["test_images"]), metrics["evaluation_crop"], f"{metrics['parameters']:,}"
        print_table(header, [(*scores, *how, f"{metrics['seconds']:.0f} s")])
        run, logs = quoted(workdir), quoted(f"{workdir}/tensorboard")
        page = "report.html" if as_address(workdir) else quoted(f"{workdir}/report.html")
        print(f"\nNext:\n  keras-mixer evaluate {run}\n  keras-mixer predict {run} IMAGE...")
        print(f"  keras-mixer export {run} --format saved_model\n  tensorboard --logdir {logs}")
        print(f"Report:\n  keras-mixer report {run} --output {page} --open")


@settings
class Sweep(Train):
    """Train with each learning rate, a tenth of the data (or --holdout) held out, then on all with the best."""

    RECIPE: ClassVar[str] = "finetune"
    CHANGED: ClassVar[dict[str, Any]] = {"holdout": 0.1}

    learning_rates: Annotated[tuple[Positive, ...], NOT_EMPTY] = (0.003, 0.01, 0.03, 0.06)
    """Peak learning rates to try, greater than 0; the default is the paper's grid for fine-tuning with SGD."""
    skip_final: bool = False  # skip the last run, on all training images with the best rate

    def train(self):
        """Tries every learning rate, and prints a table of the results."""
        recipe, workdir = self.recipe, self.workdir or Path("runs", f"{self.recipe.name}_sweep")
        options = {"holdout": recipe.holdout, "final": not self.skip_final, "skip_corrupt": self.skip_corrupt}
        result = sweep(recipe, self.learning_rates, workdir=workdir, **options)
        found = [(f"{rate:g}", "diverged" if one is None else f"{one:.2%}") for rate, one in result.accuracies.items()]
        print_table(("learning rate", f"held-out accuracy ({recipe.evaluation_crop})"), found)
        print(f"\nBest: {result.best:g}")
        if result.final is not None:
            metrics, folder = result.final.metrics, f"{workdir}/final_{result.best:g}"
            how = f"{metrics['part'].capitalize()} accuracy ({recipe.evaluation_crop}) after training on all images"
            print(f"{how}: {metrics['accuracy']:.2%} ({folder})")


def print_plan(recipe):
    """Prints the fields of a recipe, and what its training costs."""
    devices = choose_devices(recipe.devices, recipe.compiles_on_cpu())
    check_recipe(recipe, devices)
    numbers = plan(recipe)
    recipe = recipe if numbers.examples is None else recipe.for_images(numbers.examples)
    figures = {"devices": devices.description, "images per device": recipe.global_batch_size // devices.count}
    figures |= {name.replace("_", " "): value for name, value in dataclasses.asdict(numbers).items()}
    rows = [(name, str(value)) for name, value in dataclasses.asdict(recipe).items()]
    rows += [(name, f"{value:,}" if isinstance(value, int) else value or "unknown") for name, value in figures.items()]
    print_table(("setting", "value"), rows)

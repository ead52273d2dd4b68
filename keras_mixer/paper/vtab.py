"""VTAB-1k: a pre-trained model fine-tuned on each of 19 tasks with 1000 examples, in a report that can be resumed.

Source: arXiv 1910.04867 for the protocol; section 3 of arXiv 2105.01601 and BiT-HyperRule of google-research/
big_transfer for the fine-tuning: SGD with momentum 0.9, 500 steps of 512 images, 100 of them warm-up, learning rate
divided by 10 after 200, 300 and 400, no mixup; 224 px for small images, 448 px for others.
"""

import dataclasses
import functools
import shutil
import time
from pathlib import Path
from typing import Annotated, Literal

import numpy as np

from keras_mixer.anatomy import anatomy, copy_weights
from keras_mixer.data.prepared import NotPrepared
from keras_mixer.data.splits import Source
from keras_mixer.fields import SOME, Count, Positive, Seed, check_fields
from keras_mixer.models import Mixer
from keras_mixer.paper.resumable_results import ResumableResults
from keras_mixer.paper.vtab_tasks import GROUPS, VTAB_TASKS, load_task
from keras_mixer.training.callbacks import TrainingDiverged
from keras_mixer.training.loop import fit_model
from keras_mixer.training.recipe import Recipe
from keras_mixer.weights.resolution import change_resolution

SMALL_SIDE, LARGE_SIDE = 224, 448  # pixels
WARM_UP = 0.2  # as a fraction of all steps
CROP = (7 / 8) ** 2  # BiT resizes images to 8/7 of the input side and crops
CHECKPOINT_EVERY_STEPS = 50


@dataclasses.dataclass(frozen=True)
class VtabSettings:
    """The settings that determine the numbers of a report."""

    learning_rates: Annotated[tuple[Positive, ...], SOME] = (0.003,)
    """Peak learning rates, greater than 0; if more than one, each task uses the best on its 200 validation images."""
    steps: Count = 500
    """Optimizer steps of each fine-tuning, at least 1."""
    batch_size: Count = 512
    """Images per step, at least 1."""
    seeds: Annotated[tuple[Seed, ...], SOME] = (0,)
    """Seeds, in [0, 2147483647], one fine-tuning each; the result of a task is the median."""
    image_size: Count | None = None
    """Side of the input in pixels for all tasks, at least 1; None for 224 (small images) and 448."""
    precision: Literal["float32", "mixed_bfloat16"] = "float32"
    """Compute dtype of the fine-tuning; weights, logits and the test stay float32."""

    def __post_init__(self):
        check_fields(self)

    def recipe(self, task, learning_rate, seed, devices="auto") -> Recipe:
        """One fine-tuning on a task as a recipe."""
        return Recipe(
            name=f"{task.name}_lr_{learning_rate:g}_seed_{seed}",
            data=task.data,
            image_size=self.image_size or (SMALL_SIDE if task.small else LARGE_SIDE),
            steps=self.steps,
            steps_per_epoch=self.steps,
            global_batch_size=self.batch_size,
            optimizer="sgd",
            learning_rate=learning_rate,
            schedule="staircase",
            warmup_steps=int(WARM_UP * self.steps),
            crop_area=(CROP, CROP) if task.crop_and_flip else (1.0, 1.0),
            crop_aspect=None,
            flip=task.crop_and_flip,
            evaluation_crop="resize",
            precision=self.precision,
            devices=devices,
            seed=seed,
            checkpoint_every_steps=CHECKPOINT_EVERY_STEPS,
        )


@dataclasses.dataclass(frozen=True)
class VtabReport:
    """The result of `vtab_1k`.

    Attributes:
        tasks: for each finished task, `accuracy` (median of the seeds), `accuracies`, `learning_rate`, `test_images`,
            `image_size` and `seconds`.
        absent: for each task without data, how to get them.
    """

    tasks: dict[str, dict]
    absent: dict[str, str]

    def mean(self, group=None) -> tuple[float, int, int]:
        """`(mean accuracy, tasks measured, tasks in total)` of a group, or of all; NaN without any."""
        names = [task.name for task in VTAB_TASKS.values() if group in (None, task.group)]
        found = [self.tasks[name]["accuracy"] for name in names if name in self.tasks]
        return float(np.mean(found)) if found else float("nan"), len(found), len(names)

    def table(self) -> list[tuple[str, ...]]:
        """One row for each measured task, for each group and for all: `(name, accuracy, images, input, rate)`."""
        rows: list[tuple[str, ...]] = []
        for group in GROUPS:
            for name, result in self.tasks.items():
                if VTAB_TASKS[name].group == group:
                    images, side, rate = result["test_images"], result["image_size"], result["learning_rate"]
                    rows.append((name, f"{result['accuracy']:.2%}", f"{images:,}", f"{side} px", f"{rate:g}"))
        for part in (*GROUPS, None):
            mean, found, total = self.mean(part)
            if found:
                label = f"mean of {part}" if part else "VTAB-1k"
                if found < total:
                    label = f"mean of {found} of the {total} {part or ''}".strip()
                rows.append((label, f"{mean:.2%}", "", "", ""))
        return rows


def vtab_1k(
    model,
    workdir,
    *,
    tasks=None,
    data_dir=None,
    settings=VtabSettings(),
    devices="auto",
    download=False,
    name=None,
    log=print,
):
    """Fine-tunes and measures a model on every task whose data are on disk; finished tasks are not repeated.

    Call it again with the same arguments to resume, within a fine-tuning too.

    Args:
        model: a pre-trained Mixer of this package; it is not changed.
        workdir: folder of the report `vtab.json`, written after each task, and of the run in progress, which is removed
            once its result is stored.
        tasks: names of `VTAB_TASKS`; None for all.
        data_dir: folder of prepared TensorFlow Datasets; None for the TFDS default.
        settings: of the fine-tuning.
        devices: to train on, as in a `Recipe`.
        download: download and prepare what is missing and needs no manual download.
        name: of the model in the report; a report of another model is refused.
        log: called with each line of text for the user.

    Returns:
        A `VtabReport`.

    Raises:
        ValueError: an unknown task, or the folder contains a report of another model or other settings.
    """
    chosen = list(VTAB_TASKS) if tasks is None else list(tasks)
    unknown = [task for task in chosen if task not in VTAB_TASKS]
    if unknown:
        raise ValueError(f"Unknown tasks {', '.join(unknown)}; valid ones are {', '.join(VTAB_TASKS)}.")
    described = {"model": name or model.name, "settings": dataclasses.asdict(settings)}
    stored = ResumableResults(Path(workdir) / "vtab.json", described)
    absent = {}
    for task in (VTAB_TASKS[key] for key in chosen):
        folder = Path(workdir) / "runs" / task.name
        if task.name not in stored.results:
            try:
                data = load_task(task, data_dir, download)
            except NotPrepared as error:
                absent[task.name] = str(error)
                continue
            runs = ResumableResults(folder / "accuracies.json", described)
            measure = functools.partial(_measure, model, task, data, settings, devices, folder, runs, log)
            result = stored.result(task.name, measure)
            log(f"{task.name}: {result['accuracy']:.2%} of {result['test_images']:,} images, {result['seconds']:.0f} s")
        shutil.rmtree(folder, ignore_errors=True)
    return VtabReport({name: stored.results[name] for name in chosen if name in stored.results}, absent)


def _measure(model, task, data, settings, devices, folder, runs, log):
    began = time.perf_counter()

    def accuracy(part, rate, seed):
        """Top-1 on the validation or test images after fine-tuning on the others."""
        recipe = settings.recipe(task, rate, seed, devices)
        train, test = (data.both, data.test) if part == "test" else (data.train, data.validation)
        source = Source(task.name, tuple(map(str, range(task.classes))), train, test)
        workdir = folder / f"{part}_{recipe.name}"

        def fine_tuned():
            student = _student(model, task.classes, recipe.image_size)
            options = {"source": source, "model": student, "validate": False, "log": lambda line: None}
            try:
                return fit_model(recipe, workdir=workdir, **options).metrics["accuracy"]
            except TrainingDiverged as error:
                log(f"{task.name}: {error}")
                return 0.0  # outputs that are not finite are never correct

        found = runs.result(workdir.name, fine_tuned)
        shutil.rmtree(workdir, ignore_errors=True)  # 3 GB of checkpoints for B/16
        return found

    rate, *others = settings.learning_rates
    if others:
        rate = max(settings.learning_rates, key=lambda rate: accuracy("validation", rate, 0))  # the first of equals
    accuracies = [accuracy("test", rate, seed) for seed in settings.seeds]
    recipe = settings.recipe(task, rate, 0)
    return {
        "accuracy": float(np.median(accuracies)),
        "accuracies": accuracies,
        "learning_rate": rate,
        "training_images": data.both.size,
        "test_images": data.test.size,
        "image_size": recipe.image_size,
        "evaluation_crop": recipe.evaluation_crop,
        "seconds": round(time.perf_counter() - began, 1),
    }


def _student(model, classes, side):
    """A model of logits for other classes and another image size; its head starts at zero."""
    if tuple(model.input_shape[1:3]) != (side, side):
        model = change_resolution(model, (side, side, model.input_shape[-1]))
    parts = anatomy(model)
    student = Mixer(
        **dataclasses.asdict(parts.variant()),
        input_shape=model.input_shape[1:],
        classes=classes,
        classifier_activation=None,
        dropout_rate=parts.blocks[0].dropout_rate,
        drop_path_rate=parts.blocks[-1].drop_path_rates[1],
        name="vtab_student",
        exact_gelu=parts.facts.exact_gelu,
        pixel_range=parts.facts.pixel_range,
    )
    copy_weights(parts.body, anatomy(student).body)
    return student

"""VTAB-1k: one pre-trained model fine-tuned on each of 19 tasks with 1000 examples, in a report that can be resumed.

Source: arXiv 1910.04867 for the protocol; section 3 of arXiv 2105.01601 and BiT-HyperRule of google-research/
big_transfer for the fine-tuning: SGD with momentum 0.9, 500 steps of 512, 100 of them warm-up, rate divided by 10 at
200, 300 and 400, no mixup; 224 px for small images, 448 for others.
"""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Annotated

import keras
import numpy as np
import tensorflow as tf

from keras_mixer.data.parallel import PARALLEL_CALLS, prefetch
from keras_mixer.data.pipeline import evaluation_batches
from keras_mixer.data.prepared import NotPrepared
from keras_mixer.data.preprocessing import decode_image, resize
from keras_mixer.evaluation.top1 import evaluate
from keras_mixer.fields import SOME, Count, Positive, Seed, check_fields
from keras_mixer.models import rebuild
from keras_mixer.paper.resumable_results import ResumableResults
from keras_mixer.paper.vtab_tasks import GROUPS, VTAB_TASKS, load_task
from keras_mixer.resolution import change_resolution

SMALL_SIDE, LARGE_SIDE = 224, 448  # pixels
WARM_UP, DROPS = 0.2, (0.4, 0.6, 0.8)  # as shares of all steps
EVALUATION_CROP = "resize"


@dataclasses.dataclass(frozen=True)
class VtabSettings:
    """What decides the numbers of a report."""

    learning_rates: Annotated[tuple[Positive, ...], SOME] = (0.003,)
    """Peak rates, greater than 0; of several, each task takes the best of its 200 validation images."""
    steps: Count = 500
    """Optimizer steps of each fine-tuning, at least 1."""
    batch_size: Count = 512
    """Images in a step, at least 1."""
    seeds: Annotated[tuple[Seed, ...], SOME] = (0,)
    """One fine-tuning for each, in [0, 2147483647]; a task counts with the median."""
    image_size: Count | None = None
    """Side of the input in pixels for all tasks, at least 1; None for 224 (small images) and 448."""

    def __post_init__(self):
        check_fields(self)

    def side(self, task):
        """Pixels of the input for one task."""
        return self.image_size or (SMALL_SIDE if task.small else LARGE_SIDE)


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
        """`(mean accuracy, tasks measured, tasks there are)` of a group, or of all; NaN without any."""
        names = [task.name for task in VTAB_TASKS.values() if group in (None, task.group)]
        found = [self.tasks[name]["accuracy"] for name in names if name in self.tasks]
        return float(np.mean(found)) if found else float("nan"), len(found), len(names)

    def table(self) -> list[tuple[str, ...]]:
        """One row for each measured task, group and for all: `(name, accuracy, images, input, rate)`."""
        rows: list[tuple[str, ...]] = []
        for group in GROUPS:
            for name, result in self.tasks.items():
                if VTAB_TASKS[name].group == group:
                    images, side, rate = result["test_images"], result["image_size"], result["learning_rate"]
                    rows.append((name, f"{result['accuracy']:.2%}", f"{images:,}", f"{side} px", f"{rate:g}"))
        for part in (*GROUPS, None):
            mean, found, all_of_them = self.mean(part)
            if found:
                label = f"mean of {part}" if part else "VTAB-1k"
                if found < all_of_them:
                    label = f"mean of {found} of the {all_of_them} {part or ''}".strip()
                rows.append((label, f"{mean:.2%}", "", "", ""))
        return rows


def vtab_1k(
    model, workdir, *, tasks=None, data_dir=None, settings=VtabSettings(), download=False, name=None, log=print
):
    """Fine-tunes and measures a model on every task whose data are on disk; finished tasks are not done again.

    Args:
        model: a pre-trained Mixer of this package; it is not changed.
        workdir: folder of the report `vtab.json`, written after each task.
        tasks: names of `VTAB_TASKS`; None for all.
        data_dir: folder with prepared TensorFlow Datasets; None for the TFDS default.
        settings: of the fine-tuning.
        download: fetch and prepare what is missing and needs nothing by hand.
        name: what the model is called in the report; a report of another model is refused.
        log: called with each line of text for the user.

    Returns:
        A `VtabReport`.

    Raises:
        ValueError: an unknown task, or the folder holds a report of another model or other settings.
    """
    chosen = list(VTAB_TASKS) if tasks is None else list(tasks)
    unknown = [task for task in chosen if task not in VTAB_TASKS]
    if unknown:
        raise ValueError(f"Unknown tasks {', '.join(unknown)}; valid ones are {', '.join(VTAB_TASKS)}.")
    stored = ResumableResults(
        Path(workdir) / "vtab.json", {"model": name or model.name, "settings": dataclasses.asdict(settings)}
    )
    absent = {}
    for task in (VTAB_TASKS[key] for key in chosen):
        if task.name in stored.results:
            continue
        try:
            data = load_task(task, data_dir, download)
        except NotPrepared as error:
            absent[task.name] = str(error)
            continue
        result = stored.result(task.name, functools.partial(_measure, model, task, data, settings))
        log(f"{task.name}: {result['accuracy']:.2%} of {result['test_images']:,} images, {result['seconds']:.0f} s")
    return VtabReport({name: stored.results[name] for name in chosen if name in stored.results}, absent)


def _measure(model, task, data, settings):
    began = time.perf_counter()
    side = settings.side(task)
    rates = settings.learning_rates
    if len(rates) > 1:
        trials = [_accuracy(model, task, data.train, data.validation, settings, rate, 0) for rate in rates]
        rates = (rates[int(np.argmax(trials))],)
    accuracies = [_accuracy(model, task, data.both, data.test, settings, rates[0], seed) for seed in settings.seeds]
    return {
        "accuracy": float(np.median(accuracies)),
        "accuracies": accuracies,
        "learning_rate": rates[0],
        "training_images": data.both.size,
        "test_images": data.test.size,
        "image_size": side,
        "evaluation_crop": EVALUATION_CROP,
        "seconds": round(time.perf_counter() - began, 1),
    }


def _accuracy(model, task, train, test, settings, learning_rate, seed):
    """Top-1 on `test` after fine-tuning on `train`."""
    keras.utils.set_random_seed(seed)
    side = settings.side(task)
    student = _student(model, task.classes, side)
    student.compile(
        optimizer=keras.optimizers.SGD(_HyperRule(learning_rate, settings.steps), momentum=0.9, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    batches = _training_batches(train, side, settings.batch_size, task.crop_and_flip, seed)
    student.fit(batches, steps_per_epoch=settings.steps, epochs=1, shuffle=False, verbose=0)
    classifier = rebuild(student, classifier_activation="softmax")
    classifier.set_weights(student.get_weights())
    batch_size = min(settings.batch_size, 64)
    found = evaluation_batches(test, image_size=(side, side), batch_size=batch_size, crop=EVALUATION_CROP)
    return evaluate(classifier, found).top1


def _student(model, classes, side):
    """A model of logits for other classes and another size; its head starts at zero."""
    if tuple(model.input_shape[1:3]) != (side, side):
        model = change_resolution(model, (side, side, model.input_shape[-1]))
    student = rebuild(
        model, classes=classes, classifier_activation=None, include_top=True, pooling=None, name="vtab_student"
    )
    for layer in student.layers:
        if layer.name != "head" and layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    return student


@keras.saving.register_keras_serializable("keras_mixer")
class _HyperRule(keras.optimizers.schedules.LearningRateSchedule):
    """BiT-HyperRule: linear warm-up, then a tenth at each drop."""

    def __init__(self, peak, steps):
        self.peak = peak
        self.steps = steps

    def __call__(self, step):
        done = keras.ops.cast(step, "float32") / self.steps
        tenths = sum(keras.ops.cast(done >= drop, "float32") for drop in DROPS)
        return self.peak * keras.ops.minimum(done / WARM_UP, 1.0) * 0.1**tenths

    def get_config(self):
        return {"peak": self.peak, "steps": self.steps}


def _training_batches(split, side, batch_size, crop_and_flip, seed):
    """Endless batches `(images, labels)`; crops of 7/8 of the side from all places, half of them mirrored."""
    larger = round(side * 8 / 7)

    def prepared(position, element):
        example = split.read(element)
        image = decode_image(example["image"])
        if not crop_and_flip:
            return resize(image, (side, side)), example["label"]
        place = tf.stack([tf.cast(position, tf.int32), seed])
        image = tf.image.stateless_random_crop(resize(image, (larger, larger)), (side, side, 3), place)
        return tf.image.stateless_random_flip_left_right(image, place + tf.constant([0, 2**20])), example["label"]

    examples = split.elements.shuffle(split.size, seed=seed).repeat().enumerate()
    batches = examples.map(prepared, num_parallel_calls=PARALLEL_CALLS).batch(batch_size, drop_remainder=True)
    return prefetch(batches)

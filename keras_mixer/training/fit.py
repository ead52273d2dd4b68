"""`fit`: a recipe and a folder in, a trained model out. Stops and resumes at any step. The only training loop."""

import contextlib
import dataclasses
import functools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mixer.anatomy import is_mixer, rebuild
from keras_mixer.data.batches import training_batches
from keras_mixer.data.image_files import naming_damaged_files
from keras_mixer.data.sources import data_name
from keras_mixer.data.splits import Source
from keras_mixer.export.predictor import load_model
from keras_mixer.mixer_model import MixerModel
from keras_mixer.models import Mixer
from keras_mixer.training.callbacks import (
    BestEpoch,
    Checkpoints,
    Progress,
    UserCallbacks,
    checked_callbacks,
)
from keras_mixer.training.devices import check_recipe, choose_devices
from keras_mixer.training.inputs import (
    evaluate_source,
    example_images,
    load_recipe_source,
    recipe_for,
    resumed_source,
    validation_batches,
    with_own_data,
)
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.recipes import resolve
from keras_mixer.training.run import Run, read_results
from keras_mixer.training.teacher import Teacher, doubt
from keras_mixer.training.tensorboard_images import TensorBoardImages
from keras_mixer.training.training_model import TrainingModel
from keras_mixer.weights.loading import load_weights, open_weights


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What `fit` returns.

    Attributes:
        model: the trained classifier, from pixels to probabilities; saved as `model.keras`.
        history: one value per epoch for each column of `metrics.csv`.
        metrics: the content of `results.json`.
    """

    model: keras.Model
    history: dict[str, list[float]]
    metrics: dict[str, Any]


def fit(
    recipe: Recipe | str,
    *,
    workdir,
    train=None,
    test=None,
    class_names=None,
    classes=None,
    callbacks=(),
    skip_corrupt=False,
    profile_steps=None,
    log=print,
    **overrides,
) -> FitResult:
    """Trains a Mixer as the recipe says and keeps everything about the run in one folder.

    Call it again with the same arguments to resume a stopped run from its newest checkpoint; a finished run is loaded,
    not trained again. If multiple processes train together (`keras.distribution.initialize`, JAX), each calls this with
    the same arguments and a folder that all can read; the first process writes.

    Args:
        recipe: a `Recipe`, or the name of one in `RECIPES`.
        workdir: folder of the run; created if missing, never shared by two configurations. Also an address in an
            object store that fsspec opens, such as gs://bucket/run (extra `gcs`) or s3://bucket/run (`s3`), to which
            one process at a time may write.
        train: training data to use instead of those of the recipe: NumPy arrays `(images, labels)`, a finite
            `tf.data.Dataset` of (image, label) elements, or an object with a length whose items are (image, label),
            such as a `grain.MapDataset`. Images are uint8 pixels `(H, W, 3)`, `(H, W, 1)` or `(H, W)`, or the bytes of
            encoded images; labels are integers from 0. The recipe shuffles and augments. To resume, pass the same data
            in the same order.
        test: test data, likewise. None sets aside `test_fraction` of each class if `train` is arrays.
        class_names: with `train`, one name per class in label order; None names the classes by their numbers.
        classes: with `train`, the number of classes; needed if `train` is not arrays and there are no `class_names`.
        callbacks: a Keras callback or a list of them, called on each process. They see one training, which starts at
            the resumed epoch. In `on_epoch_end` the logs have all columns of `metrics.csv`, the weights are those that
            were validated, and no checkpoint has the epoch yet. `self.model` outputs logits. `stop_training` ends the
            run as finished.
        skip_corrupt: leave out image files that cannot be decoded instead of raising.
        profile_steps: `(first, last)` step to profile for TensorBoard, counted from the start of this call.
        log: called with each line of text for the user.
        **overrides: fields of the recipe to replace.

    Returns:
        A `FitResult`.

    Raises:
        ValueError: unknown recipe or field, unusable data, or a folder that belongs to another configuration.
        TrainingDiverged: (a ValueError) the loss is not finite; earlier checkpoints are kept.
        OSError: the folder cannot be written or the disk is too small. Both are found before training.
        RunStopped: (a KeyboardInterrupt) Ctrl-C or SIGTERM; the state is in a checkpoint.

    Example:
        >>> keras_mixer.fit("digits", workdir="runs/digits", epochs=1).metrics["accuracy"]  # doctest: +SKIP
        0.93
    """
    recipe, source = resolve(recipe, **overrides), None
    own = {"test": test, "class_names": class_names, "classes": classes}
    if train is not None:
        recipe, source = with_own_data(recipe, overrides, train, **own, log=log)
    elif given := [name for name, value in own.items() if value is not None]:
        raise ValueError(f"{', '.join(given)} can be used only with train=. Pass the training data too.")
    options = {"callbacks": callbacks, "skip_corrupt": skip_corrupt, "profile_steps": profile_steps, "log": log}
    return fit_model(recipe, workdir=workdir, source=source, **options)


def fit_model(
    recipe: Recipe,
    *,
    workdir,
    source: Source | None = None,
    model: keras.Model | None = None,
    callbacks=(),
    skip_corrupt=False,
    profile_steps=None,
    log=print,
) -> FitResult:
    """`fit`, also for data and models that no recipe can name; the other arguments are those of `fit`.

    Args:
        recipe: a `Recipe`. With `source`, its data fields are not used; with `model`, its architecture and weights.
        source: the data; None loads those of the recipe.
        model: from pixels in [0, 255] to logits, with its initial weights; receives the trained ones. None builds that
            of the recipe. A Keras model that is not a Mixer trains in float32, on one device or on JAX. `xla_on_cpu`
            "auto" does not compile a given model. When a run resumes, the weights come from the checkpoint.
    """
    started, users = time.perf_counter(), checked_callbacks(callbacks)
    devices = choose_devices(recipe.devices, recipe.compiles_on_cpu() if model is None else recipe.xla_on_cpu is True)
    log = log if devices.writes else _silent
    architecture = recipe.architecture()
    parameters = architecture.parameters(recipe.input_shape()) if model is None else model.count_params()
    with open_run(workdir, recipe, devices, parameters, log) as run:
        if run.finished:
            log(f"Run {run.name} is already finished; delete it or choose another --workdir to train again.")
            return FitResult(load_model(run.model), run.read_metrics(), read_results(run.path))
        with devices.all_or_none():
            if source is None:
                record = run.record()
                source = resumed_source(recipe, record, skip_corrupt, log) if record else None
            source = source or load_recipe_source(recipe, skip_corrupt, log)
            log(source.classes())
            recipe = recipe_for(recipe, source, log)
            check_recipe(recipe, devices)
            log(_summary(recipe, source, devices))
            with devices.scope():
                teacher = Teacher(recipe.teacher) if recipe.teacher else None
            keras.utils.set_random_seed(recipe.seed)
            model, accuracy = start_of(run, recipe, source, teacher, model)
            with devices.scope():
                trainee = TrainingModel.of(model, recipe, source.train.size, devices, teacher)
                step = run.restore(trainee)
            if step:
                log(f"Resuming after step {step} of {trainee.total_steps}.")
            if devices.writes:
                run.begin(source, model, accuracy, teacher and teacher.sha256)
                run.drop_metrics_after(step)
        with naming_damaged_files(source.train, source.test, crop=recipe.evaluation_crop), devices.scope():
            best = train_parts(trainee, run, source, step, users, profile_steps)
        classifier = trainee.classifier(model)
        evaluation = evaluate_source(classifier, source, recipe)
        for remark in evaluation.remarks():
            log(remark)
        seconds = round(time.perf_counter() - started, 1)
        results = run.finish(classifier, evaluation, start_accuracy=accuracy, **best, seconds=seconds)
        return FitResult(classifier, run.read_metrics(), results)


def _silent(line):
    """The log of the processes that do not write."""


@contextlib.contextmanager
def open_run(workdir, recipe, devices, parameters, log):
    """The run, opened by the process that writes before the others look at it."""
    with contextlib.ExitStack() as stack:
        for writes in (True, False):
            with devices.all_or_none():
                if devices.writes == writes:
                    run = Run(workdir, recipe, writes, log)
                    stack.enter_context(run.opened(parameters))
        yield run


def _summary(recipe, source, devices):
    batch = recipe.global_batch_size
    return (
        f"{recipe.name}: {source.train.size:,} training and {source.test.size:,} {recipe.part()} images of "
        f"{source.name}, {len(source.class_names)} classes; {devices.description}, {batch // devices.count} images per "
        f"device and {batch} per step"
    )


def start_of(run, recipe, source, teacher, model=None):
    """The model of logits that training starts from, and its test accuracy; None if its head is zero.

    A run that resumes takes both from its folder; the weights are then those of a checkpoint.

    Raises:
        ValueError: the classes or the teacher are not those that the run started with.
    """
    start, given = run.read_start(), model is not None
    if teacher is not None:
        if start and start["teacher"] != teacher.sha256:
            raise ValueError(
                f"The teacher {recipe.teacher} has changed since this run started. Restore it, or choose another "
                "--workdir."
            )
        if sentence := doubt(recipe):
            run.log(sentence)
    if start:
        model = model or keras.models.model_from_json(json.dumps(start["model"]))
        then, now = getattr(model, "class_names", None) or source.class_names, source.class_names
        if then != now:
            raise ValueError(
                f"The classes of {source.name!r} have changed since this run started: {len(then)} then "
                f"({', '.join(then[:5])} ...), {len(now)} now ({', '.join(now[:5])} ...). Restore them, or choose "
                "another --workdir."
            )
    elif model is None:
        model = start_model(recipe, source, run.log)
    if teacher is not None:
        teacher.check_classes(model.output_shape[-1], source.class_names)
    if start:
        return model, start["accuracy"]
    if given or not model.get_layer("head").kernel.numpy().any():
        return model, None
    accuracy = evaluate_source(model, source, recipe).top1  # logits rank classes like probabilities
    run.log(f"Before training: {accuracy:.2%} {recipe.part()} accuracy.")
    return model, accuracy


def start_model(recipe: Recipe, source: Source, log) -> MixerModel:
    """The recipe's model of logits with its initial weights, in float32."""
    variant, method, file = recipe.architecture(), recipe.resolution_method, None
    if recipe.weights:
        of_run = Path(recipe.weights, "model.keras")
        file = open_weights(str(of_run) if of_run.is_file() else recipe.weights, variant)
        if method == "block_diagonal":
            variant = file.widened(variant, variant.grid(recipe.input_shape()))
    exact_gelu, pixel_range = file.form() if file else (False, (-1.0, 1.0))
    model = Mixer(
        **dataclasses.asdict(variant),
        input_shape=recipe.input_shape(),
        classes=len(source.class_names),
        classifier_activation=None,
        dropout_rate=recipe.dropout_rate,
        drop_path_rate=recipe.drop_path_rate,
        name=f"mixer_{recipe.name}",
        exact_gelu=exact_gelu,
        pixel_range=pixel_range,
    )
    if keras.config.dtype_policy().name != "float32":  # the recipe decides about precision
        model = rebuild(model, precision="float32")
    model.class_names = source.class_names
    model.evaluation_crop, model.trained_on = recipe.evaluation_crop, data_name(recipe.data)
    if file:
        load_weights(model, file, method=method, log=log)
    head = model.get_layer("head")
    if not head.kernel.numpy().any():
        head.bias.assign(np.full(head.bias.shape, recipe.head_bias))
    return model


@dataclasses.dataclass(frozen=True)
class Part:
    """Epochs of equal length: one call of Keras's `fit`."""

    first_step: int
    first_epoch: int
    last_epoch: int
    steps_per_epoch: int
    steps_per_execution: int
    freeze: bool
    within_an_epoch: bool = False


def parts(recipe, images, step=0) -> Iterator[Part]:
    """The rest of an interrupted epoch, the frozen epochs, the others, and a last one that may be shorter.

    With multiple steps per execution, an epoch ends at the last complete execution in it: Keras would overrun it.
    """
    steps, total, frozen = recipe.epoch_steps(images), recipe.total_steps(images), recipe.frozen_steps(images)
    together = min(recipe.steps_per_execution, steps)
    while step < total:
        epoch, done = divmod(step, steps)
        freeze = step < frozen
        complete = ((frozen if freeze else total) - step) // steps
        if done or not complete:
            rest = min(steps - done, total - step)
            yield Part(step, epoch, epoch + 1, rest, 1 if rest % together else together, freeze, done > 0)
            step += rest
        else:
            yield Part(step, epoch, epoch + complete, steps, together, freeze)
            step += complete * steps


def train_parts(trainee, run, source, step, users, profile_steps) -> dict[str, Any]:
    """Trains from a step to the end; returns what the results say of the best epoch."""
    recipe, devices, planned = trainee.recipe, trainee.devices, list(parts(trainee.recipe, source.train.size, step))
    last_epoch = planned[-1].last_epoch if planned else 0
    best = BestEpoch(run, run.read_metrics().get("val_accuracy", ()))
    watching = [best] if recipe.keep == "best" or recipe.patience else []
    if watching and recipe.part() == "test":
        run.log("The best epoch is chosen on the test images, so that its accuracy is too high; better: --holdout 0.1.")
    users = UserCallbacks([*watching, *users], trainee, last_epoch, recipe.epoch_steps(source.train.size))
    progress = Progress(recipe, step, trainee.total_steps, run.append_metrics if devices.writes else None)
    # Multiple processes would stop at different steps and wait for each other.
    checkpoints = Checkpoints(run, step, takes_signals=devices.processes == 1)
    callbacks: list[keras.callbacks.Callback] = [progress]
    if devices.writes:
        tensorboard = keras.callbacks.TensorBoard
        callbacks.append(tensorboard(run.tensorboard, write_graph=False, profile_batch=profile_steps or 0))
        if is_mixer(trainee):
            images = None if step else functools.partial(example_images, source, recipe)
            callbacks.append(TensorBoardImages(run.tensorboard / "pictures", images, step, trainee.total_steps))
    callbacks += [users] if users.callbacks else []
    callbacks += [checkpoints] if devices.writes else []  # last: a run resumed after an epoch calls no other for it
    validation = validation_batches(source, recipe, devices)  # once: the parts share its cache
    try:
        for part in planned:
            progress.resumed = part.within_an_epoch
            trainee.prepare(part.freeze, part.steps_per_execution)
            trainee.fit(
                training_batches(source.train, recipe, part.first_step, devices),
                steps_per_epoch=part.steps_per_epoch,
                initial_epoch=part.first_epoch,
                epochs=part.last_epoch,
                validation_data=validation,
                callbacks=callbacks,
                shuffle=False,  # the stream is shuffled; True only makes Keras warn
                verbose=0,
            )
            if trainee.stop_training:
                break
        if devices.writes and planned:
            checkpoints.finish()  # before the last evaluation, which may fail
        if recipe.keep == "best":
            best.restore(trainee)
        else:
            trainee.optimizer.take_average(trainee.trainable_variables)
        users.end_training()
    finally:
        checkpoints.release_signals()
        progress.bar.close()
    return best.results() if watching else {}

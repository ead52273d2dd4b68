"""`fit`: a recipe and a folder in, a trained model out. Stops and resumes at any step."""

import contextlib
import dataclasses
import importlib.metadata
import platform
import time
from typing import Any

import keras

from keras_mixer.export.loading import load_mixer
from keras_mixer.files import write_json
from keras_mixer.mixer_model import CARRIED
from keras_mixer.models import rebuild
from keras_mixer.training.callbacks import Checkpoints, EpochMetrics, ProgressBar, StopWhenDiverged, ValidateAverage
from keras_mixer.training.checkpoints import read_newest
from keras_mixer.training.devices import check_recipe, choose_devices
from keras_mixer.training.inputs import (
    evaluate_source,
    example_images,
    load_recipe_source,
    recipe_batches,
    validation_batches,
)
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.recipes import resolve
from keras_mixer.training.run_directory import RunDirectory
from keras_mixer.training.tensorboard_images import TensorBoardImages
from keras_mixer.training.trainee import Start, build_trainee, compile_trainee, start_model

BYTES_OF_A_PARAMETER = 4
COPIES_ON_DISK = 11  # three checkpoints of weights and two moments while one is being replaced, the model, its copy


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What `fit` gives back.

    Attributes:
        model: the trained classifier, pixels in and probabilities out; what `model.keras` holds.
        history: one value an epoch for each column of `metrics.csv`.
        metrics: the content of `results.json`.
    """

    model: keras.Model
    history: dict[str, list[float]]
    metrics: dict[str, Any]


def fit(recipe: Recipe | str, *, workdir, skip_corrupt=False, profile_steps=None, log=print, **overrides) -> FitResult:
    """Trains a Mixer as a recipe says and keeps everything about the run in one folder.

    A run that was stopped goes on from its newest checkpoint when called again in the same way; a finished one is
    loaded, not trained again. Of several processes that train together (`keras.distribution.initialize`, JAX), each
    calls this with the same arguments and a folder that all can read; the first writes.

    Args:
        recipe: a `Recipe`, or the name of one in `RECIPES`.
        workdir: folder of the run; made when missing, never shared by two configurations.
        skip_corrupt: leave image files out that cannot be decoded, instead of raising.
        profile_steps: `(first, last)` step, counted from where this call starts, to profile for TensorBoard.
        log: called with each line of text for the user.
        **overrides: fields of the recipe to replace.

    Returns:
        A `FitResult`.

    Raises:
        ValueError: unknown recipe or field, unusable data, or a folder that belongs to another configuration.
        TrainingDiverged: (a ValueError) the loss is not finite any more; checkpoints of before are kept.
        OSError: the folder cannot be written or the disk is too small. Both come before any training.
        RunStopped: (a KeyboardInterrupt) Ctrl-C or SIGTERM; the state is in a checkpoint.

    Source: ours.

    Example:
        >>> keras_mixer.fit("digits", workdir="runs/digits", epochs=1).metrics["accuracy"]  # doctest: +SKIP
        0.93
    """
    recipe = resolve(recipe, **overrides)
    devices = choose_devices(recipe.devices, recipe.xla_on_cpu)
    check_recipe(recipe, devices)
    log = log if devices.writes else _silent
    needed = recipe.architecture().parameters(recipe.input_shape()) * BYTES_OF_A_PARAMETER * COPIES_ON_DISK
    with contextlib.ExitStack() as until_the_end:
        with devices.all_or_none():
            if devices.writes:
                run = RunDirectory(workdir, recipe)
                if not run.finished:
                    until_the_end.enter_context(run.prepared(needed, log))
        with devices.all_or_none():
            if not devices.writes:  # only now: it would take a folder in the making for somebody else's
                run = RunDirectory(workdir, recipe)
        if run.finished:
            log(f"Run {run.path} is finished already; delete it or choose another --workdir to train again.")
            return FitResult(load_mixer(run.model), run.read_metrics(), run.read_results())
        return _fit(recipe, run, devices, skip_corrupt, profile_steps, log)


def _fit(recipe, run, devices, skip_corrupt, profile_steps, log):
    started = time.perf_counter()
    with devices.all_or_none():
        source = load_recipe_source(recipe, skip_corrupt, log, run.checked_images, remember=devices.writes)
        if recipe.global_batch_size > source.train.size:
            raise ValueError(
                f"global_batch_size={recipe.global_batch_size} is more than the {source.train.size} training images of "
                f"{source.name!r}; lower --global-batch-size."
            )
        log(
            f"{recipe.name}: {source.train.size:,} training and {source.test.size:,} test images of {source.name}, "
            f"{len(source.class_names)} classes; {devices.description}, "
            f"{recipe.global_batch_size // devices.count} images a device and {recipe.global_batch_size} a step"
        )
        keras.utils.set_random_seed(recipe.seed)
        checkpoint = read_newest(run.checkpoints, log)
        start = Start.read(run.start) if checkpoint else None
        if start is None:
            model = start_model(recipe, source, log)
            start = Start.of(model, _accuracy_at_start(model, recipe, source, log))
            if devices.writes:
                write_json(run.start, start.as_json())
        else:
            model = start.model(recipe, source)
        total_steps = recipe.steps or source.train.size // recipe.global_batch_size * recipe.epochs
        with devices.scope():
            trainee = build_trainee(model, recipe, total_steps, devices)
            if checkpoint:
                checkpoint.restore(trainee)
                log(f"Resuming after step {checkpoint.step} of {total_steps}.")
        start_step = checkpoint.step if checkpoint else 0
        del checkpoint  # as large as the trainee
    _train(trainee, recipe, run, source, devices, start_step, total_steps, profile_steps)
    trained = rebuild(trainee, classifier_activation=recipe.loss)  # float32, on one device
    for name in CARRIED:
        setattr(trained, name, getattr(model, name))
    trained.set_weights([weight.numpy() for weight in trainee.weights])
    evaluation = evaluate_source(trained, source, recipe)
    for remark in evaluation.remarks():
        log(remark)
    seconds = time.perf_counter() - started
    results = _results(recipe, evaluation, start.accuracy, trained.count_params(), seconds)
    if devices.writes:
        trained.save(run.model)
        run.write_results(results)
    return FitResult(trained, run.read_metrics(), results)


def _silent(line):
    """Takes the reports of the processes that do not write."""


def _accuracy_at_start(model, recipe, source, log):
    """Test accuracy of the weights that training starts from; None for random ones, or where the head is zero."""
    if not model.get_layer("head").kernel.numpy().any():  # as it is, too, in a model without loaded weights
        return None
    accuracy = evaluate_source(model, source, recipe).top1  # logits rank classes like probabilities
    log(f"Before training: {accuracy:.2%} of the test images right.")
    return accuracy


def _train(model, recipe, run, source, devices, start_step, total_steps, profile_steps):
    """Trains a compiled model of logits to the last step, from wherever the run stands."""
    steps_per_epoch = source.train.size // recipe.global_batch_size
    with devices.scope():
        checkpoints = Checkpoints(run.checkpoints, recipe.checkpoint_every_steps, start_step)
        bar = ProgressBar(total_steps, start_step, shown=devices.writes)
        callbacks: list[keras.callbacks.Callback] = [StopWhenDiverged(start_step), bar]
        if recipe.ema_momentum is not None:
            callbacks.append(ValidateAverage())
        if devices.writes:
            run.drop_metrics_after(start_step)
            images = None if start_step else example_images(source, recipe)
            callbacks += [
                EpochMetrics(recipe.global_batch_size, run.append_metrics),
                keras.callbacks.TensorBoard(run.tensorboard, write_graph=False, profile_batch=profile_steps or 0),
                TensorBoardImages(run.tensorboard / "pictures", images, start_step, total_steps),
                checkpoints,
            ]
        if devices.processes == 1:  # several would stop at different steps and wait for each other
            checkpoints.take_signals()
        try:
            for leg in _legs(start_step, steps_per_epoch, total_steps, recipe.steps_per_execution):
                if leg.steps_per_execution != model.steps_per_execution:
                    compile_trainee(model, model.optimizer, recipe, devices, leg.steps_per_execution)
                model.fit(
                    recipe_batches(source, recipe, leg.first_step, devices),
                    steps_per_epoch=leg.steps_per_epoch,
                    initial_epoch=leg.first_epoch,
                    epochs=leg.last_epoch,
                    validation_data=validation_batches(source, recipe, devices),
                    callbacks=callbacks,
                    shuffle=False,  # the stream is shuffled; True only makes Keras warn
                    verbose=0,
                )
        finally:
            checkpoints.release_signals()
            bar.close()
        model.optimizer.take_average(model.trainable_variables)


@dataclasses.dataclass(frozen=True)
class _Leg:
    """Epochs of equal length, one call of Keras's `fit`."""

    first_step: int
    first_epoch: int
    last_epoch: int
    steps_per_epoch: int
    steps_per_execution: int


def _legs(step, steps_per_epoch, total_steps, steps_per_execution):
    """The rest of an epoch that was broken off, the whole epochs after it, and a last one that may be shorter.

    Where several steps are executed at once, an epoch ends at the last whole execution in it: Keras would run over.
    """
    together = min(steps_per_execution, steps_per_epoch)
    steps_per_epoch -= steps_per_epoch % together
    while step < total_steps:
        epoch, done = divmod(step, steps_per_epoch)
        whole = (total_steps - step) // steps_per_epoch
        if done or not whole:
            steps = min(steps_per_epoch - done, total_steps - step)
            yield _Leg(step, epoch, epoch + 1, steps, 1 if steps % together else together)
            step += steps
        else:
            yield _Leg(step, epoch, epoch + whole, steps_per_epoch, together)
            step += whole * steps_per_epoch


def _results(recipe, evaluation, start_accuracy, parameters, seconds):
    packages = ("keras-mixer", "keras", "numpy", "tensorflow", "tensorflow-cpu", "jax", "keras-cv")
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "recipe": recipe.name,
        "accuracy": evaluation.top1,
        "start_accuracy": start_accuracy,
        "top5": evaluation.top5,
        "loss": evaluation.loss,
        "test_images": evaluation.examples,
        "evaluation_crop": recipe.evaluation_crop,
        "image_size": list(recipe.input_shape()[:2]),
        "parameters": parameters,
        "seed": recipe.seed,
        "seconds": round(seconds, 1),
        "backend": keras.backend.backend(),
        "versions": versions,
    }

"""`fit`: a recipe and a folder in, a trained model out. Stops and resumes at any step."""

import contextlib
import dataclasses
import importlib.metadata
import platform
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_mixer.data.integrity import check_source
from keras_mixer.data.pipeline import evaluation_batches, training_batches
from keras_mixer.data.sources import Source, load_source
from keras_mixer.evaluation.top1 import Evaluation, evaluate
from keras_mixer.models import Mixer, MixerModel, rebuild
from keras_mixer.training.callbacks import Checkpoints, EpochMetrics, ProgressBar
from keras_mixer.training.checkpoints import restore_newest
from keras_mixer.training.distribution import check_batch_size, check_randomness, choose_devices
from keras_mixer.training.optimizers import build_loss, build_optimizer
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.recipes import resolve
from keras_mixer.training.run_directory import RunDirectory
from keras_mixer.weights.loading import load_weights

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


def fit(recipe: Recipe | str, *, workdir, skip_corrupt=False, report=print, **overrides) -> FitResult:
    """Trains a Mixer as a recipe says and keeps everything about the run in one folder.

    A run that was stopped goes on from its newest checkpoint when called again in the same way; a finished one is
    loaded, not trained again.

    Args:
        recipe: a `Recipe`, or the name of one in `RECIPES`.
        workdir: folder of the run; made when missing, never shared by two configurations.
        skip_corrupt: leave image files out that cannot be decoded, instead of raising.
        report: called with each line of text for the user.
        **overrides: fields of the recipe to replace.

    Returns:
        A `FitResult`.

    Raises:
        ValueError: unknown recipe or field, unusable data, or a folder that belongs to another configuration.
        OSError: the folder cannot be written or the disk is too small. Both come before any training.
        RunStopped: (a KeyboardInterrupt) Ctrl-C or SIGTERM; the state is in a checkpoint.

    Source: ours.

    Example:
        >>> keras_mixer.fit("digits", workdir="runs/digits", epochs=1).metrics["accuracy"]  # doctest: +SKIP
        0.93
    """
    recipe = resolve(recipe, **overrides)
    devices = choose_devices(recipe.devices, recipe.xla_on_cpu)
    check_batch_size(recipe.global_batch_size, devices)
    check_randomness((recipe.dropout_rate, recipe.drop_path_rate), devices)
    architecture = recipe.architecture()
    parameters = architecture.parameters(recipe.input_shape())  # before the data are read: sizes that do not fit
    run = RunDirectory(workdir, recipe, parameters * BYTES_OF_A_PARAMETER * COPIES_ON_DISK)
    if run.finished:
        report(f"Run {run.path} is finished already; delete it or choose another --workdir to train again.")
        return FitResult(keras.saving.load_model(run.model), run.read_metrics(), run.read_results())

    source = load_recipe_source(recipe, skip_corrupt, report)
    if recipe.global_batch_size > source.train.size:
        raise ValueError(
            f"global_batch_size={recipe.global_batch_size} is more than the {source.train.size} training images of "
            f"{source.name!r}; lower --global-batch-size."
        )
    report(
        f"{recipe.name}: {source.train.size:,} training and {source.test.size:,} test images of {source.name}, "
        f"{len(source.class_names)} classes; {devices.description}, "
        f"{recipe.global_batch_size // devices.count} images a device and {recipe.global_batch_size} a step"
    )
    started = time.perf_counter()
    keras.utils.set_random_seed(recipe.seed)
    start = _start(recipe, source, report)
    start_accuracy = _accuracy_at_start(start, recipe, source, report)
    trainee = _train(start, recipe, run, source, devices, report)
    model = rebuild(trainee, classifier_activation=recipe.loss)  # float32, on one device
    model.set_weights(trainee.get_weights())
    evaluation = evaluate_source(model, source, recipe)
    model.save(run.model)
    seconds = time.perf_counter() - started
    results = _results(recipe, evaluation, start_accuracy, model.count_params(), seconds)
    run.write_results(results)
    return FitResult(model, run.read_metrics(), results)


def load_recipe_source(recipe: Recipe, skip_corrupt=False, report=print) -> Source:
    """The data of a recipe, every image file of which decodes.

    Raises:
        ValueError: as `load_source` and `check_source`.
    """
    source = load_source(
        recipe.data, recipe.data_dir, recipe.train_split, recipe.test_split, test_fraction=recipe.test_fraction
    )
    source, skipped = check_source(source, skip_corrupt)
    if skipped:
        report(f"Left out {skipped} image file(s) that cannot be decoded.")
    return source


def evaluate_source(model, source: Source, recipe: Recipe, **options) -> Evaluation:
    """Accuracy on the test part of a source, prepared the recipe's way."""
    return evaluate(model, _test_batches(source, recipe), **options)


def _accuracy_at_start(model, recipe, source, report):
    """Test accuracy of the weights that training starts from; None for random ones, or where the head is zero."""
    if not model.get_layer("head").kernel.numpy().any():  # as it is, too, in a model without loaded weights
        return None
    accuracy = evaluate_source(model, source, recipe).top1  # logits rank classes like probabilities
    report(f"Before training: {accuracy:.2%} of the test images right.")
    return accuracy


def _train(start, recipe, run, source, devices, report):
    """Trains to the last step, from wherever the run stands; returns a model of logits."""
    steps_per_epoch = source.train.size // recipe.global_batch_size
    total_steps = recipe.steps or steps_per_epoch * recipe.epochs
    classes = len(source.class_names)
    with devices.scope():
        keras.utils.set_random_seed(recipe.seed)
        with _policy(recipe.precision):
            model = rebuild(start)
        model.set_weights(start.get_weights())
        model.compile(
            optimizer=build_optimizer(recipe, total_steps),
            loss=build_loss(recipe),
            metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
            jit_compile=devices.jit_compile,
        )
        model.optimizer.build(model.trainable_variables)
        start_step = restore_newest(run.checkpoints, model, report)
        if start_step:
            report(f"Resuming after step {start_step} of {total_steps}.")
        run.drop_metrics_after(start_step)
        checkpoints = Checkpoints(run.checkpoints, recipe.checkpoint_every_steps, start_step)
        bar = ProgressBar(total_steps, start_step)
        checkpoints.take_signals()
        try:
            for leg in _legs(start_step, steps_per_epoch, total_steps):
                model.fit(
                    _training_batches(source, recipe, leg.first_step),
                    steps_per_epoch=leg.steps_per_epoch,
                    initial_epoch=leg.first_epoch,
                    epochs=leg.last_epoch,
                    # keras.distribution cannot share a last, smaller batch; the final evaluation runs on one device
                    validation_data=_test_batches(source, recipe, classes) if devices.distribution is None else None,
                    callbacks=[
                        EpochMetrics(recipe.global_batch_size, run.append_metrics),
                        bar,
                        keras.callbacks.TensorBoard(run.tensorboard, write_graph=False),
                        checkpoints,
                    ],
                    shuffle=False,  # the stream is shuffled; True only makes Keras warn
                    verbose=0,
                )
        finally:
            checkpoints.release_signals()
            bar.close()
    return model


@dataclasses.dataclass(frozen=True)
class _Leg:
    """Epochs of equal length, one call of Keras's `fit`."""

    first_step: int
    first_epoch: int
    last_epoch: int
    steps_per_epoch: int


def _legs(step, steps_per_epoch, total_steps):
    """The rest of an epoch that was broken off, the whole epochs after it, and a last one that may be shorter."""
    while step < total_steps:
        epoch, done = divmod(step, steps_per_epoch)
        whole = (total_steps - step) // steps_per_epoch
        if done or not whole:
            steps = min(steps_per_epoch - done, total_steps - step)
            yield _Leg(step, epoch, epoch + 1, steps)
            step += steps
        else:
            yield _Leg(step, epoch, epoch + whole, steps_per_epoch)
            step += whole * steps_per_epoch


def _training_batches(source, recipe, start_step):
    return training_batches(
        source.train,
        classes=len(source.class_names),
        image_size=recipe.input_shape()[:2],
        batch_size=recipe.global_batch_size,
        seed=recipe.seed,
        start_step=start_step,
        shuffle_buffer=recipe.shuffle_buffer,
        crop_area=recipe.crop_area,
        crop_aspect=recipe.crop_aspect,
        flip=recipe.flip,
        randaugment_num_ops=recipe.randaugment_num_ops,
        randaugment_level=recipe.randaugment_level,
        randaugment_operations=recipe.randaugment_operations,
        randaugment_fill=recipe.randaugment_fill,
        mixup_alpha=recipe.mixup_alpha,
    )


def _test_batches(source, recipe, one_hot_classes=None):
    """The test part in order; with one-hot labels as the training loss wants them, if their number is given."""
    batches = evaluation_batches(
        source.test,
        image_size=recipe.input_shape()[:2],
        batch_size=min(recipe.global_batch_size, source.test.size),
        crop=recipe.evaluation_crop,
    )
    if one_hot_classes is None:
        return batches
    return batches.map(lambda images, labels: (images, tf.one_hot(labels, one_hot_classes)))


def _start(recipe, source, report) -> MixerModel:
    """The recipe's model of logits with the weights that training starts from."""
    stretch = recipe.resolution_method == "bilinear"
    model = Mixer(
        **dataclasses.asdict(recipe.architecture()),
        input_shape=recipe.input_shape(),
        classes=len(source.class_names),
        classifier_activation=None,
        weights=None if stretch else recipe.weights,
        dropout_rate=recipe.dropout_rate,
        drop_path_rate=recipe.drop_path_rate,
        name=f"mixer_{recipe.name}",
    )
    if stretch and recipe.weights:
        load_weights(model, recipe.weights, method="bilinear", report=report)
    head = model.get_layer("head")
    if not head.kernel.numpy().any():
        head.bias.assign(np.full(head.bias.shape, recipe.head_bias))
    model.class_names = source.class_names
    model.evaluation_crop = recipe.evaluation_crop
    return model


@contextlib.contextmanager
def _policy(precision):
    """Builds layers in another number format without leaving it behind for the caller's own models."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


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

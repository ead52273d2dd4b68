"""`fit`: a recipe and a folder in, a trained model out. Stops and resumes at any step. The only training loop."""

import contextlib
import dataclasses
import functools
import time
from typing import Any

import keras

from keras_mixer.anatomy import is_mixer
from keras_mixer.data.batches import training_batches
from keras_mixer.data.image_files import naming_damaged_files
from keras_mixer.data.splits import Source
from keras_mixer.export.predictor import load_model
from keras_mixer.training.bucket_run import run_directory
from keras_mixer.training.callbacks import (
    Checkpoints,
    EpochMetrics,
    ProgressBar,
    StopWhenDiverged,
    UserCallbacks,
    ValidateAverage,
    check_callbacks,
)
from keras_mixer.training.checkpoints import read_newest
from keras_mixer.training.devices import check_recipe, choose_devices
from keras_mixer.training.distillation import Teacher, checksum, doubts
from keras_mixer.training.inputs import (
    count_steps,
    evaluate_source,
    example_images,
    load_recipe_source,
    resumed_source,
    validation_batches,
    with_own_data,
)
from keras_mixer.training.legs import legs
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.recipes import resolve
from keras_mixer.training.results import results_of
from keras_mixer.training.tensorboard_images import TensorBoardImages
from keras_mixer.training.trainee import Start, build_trainee, classifier_of, compile_trainee, start_model

BYTES_PER_PARAMETER = 4
COPIES_ON_DISK = 11  # three checkpoints of weights and two moments while one is being replaced, the model, its copy


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
            object store that fsspec opens, such as gs://bucket/run (extra `gcs`) or s3://bucket/run (`s3`).
        train: training data to use instead of those of the recipe: NumPy arrays `(images, labels)`, a finite
            `tf.data.Dataset` of (image, label) elements, or an object with a length whose items are (image, label),
            such as a `grain.MapDataset`. Images are uint8 pixels `(H, W, 3)`, `(H, W, 1)` or `(H, W)`, or the bytes of
            encoded images; labels are integers from 0. The recipe shuffles and augments. To resume, pass the same data
            in the same order.
        test: test data, likewise. None sets aside `test_fraction` of each class if `train` is arrays.
        class_names: with `train`, one name per class in label order; None names the classes by their numbers.
        classes: with `train`, the number of classes; needed if `train` is not arrays and there are no `class_names`.
        callbacks: Keras callbacks, called on each process. They see one training, which starts at the resumed epoch. In
            `on_epoch_end` the logs have all columns of `metrics.csv`, the weights are those that were validated, and no
            checkpoint has the epoch yet. `self.model` outputs logits. `stop_training` ends the run as finished.
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

    Source: ours.

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
    validate=True,
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
        validate: measure the test accuracy after each epoch too, not only at the end.
    """
    started = time.perf_counter()
    check_callbacks(callbacks)
    devices = choose_devices(recipe.devices, recipe.compiles_on_cpu() if model is None else recipe.xla_on_cpu is True)
    check_recipe(recipe, devices)
    log = log if devices.writes else _silent
    architecture = recipe.architecture()
    parameters = architecture.parameters(recipe.input_shape()) if model is None else model.count_params()
    with _open_run(workdir, recipe, devices, parameters, log) as run:
        if run.finished:
            log(f"Run {run.address} is already finished; delete it or choose another --workdir to train again.")
            return FitResult(load_model(run.model), run.read_metrics(), run.read_results())
        with devices.all_or_none():
            if source is None and (record := run.record()):
                source = resumed_source(recipe, record, skip_corrupt, log)
            source = source or load_recipe_source(recipe, skip_corrupt, log)
            total_steps = count_steps(recipe, source, devices, log)
            keras.utils.set_random_seed(recipe.seed)
            checkpoint = read_newest(run.checkpoints, log)
            start, start_accuracy = None, None
            if model is None:
                model, start = _start(recipe, source, run, bool(checkpoint), log)
                start_accuracy = start.accuracy
            with devices.scope():
                trainee = build_trainee(model, recipe, total_steps, devices)
                if checkpoint:
                    checkpoint.restore(trainee)
                    log(f"Resuming after step {checkpoint.step} of {total_steps}.")
            if devices.writes:
                run.begin(source, None if start is None else start.as_json())
            start_step = checkpoint.step if checkpoint else 0
            del checkpoint  # as large as the trainee
        with naming_damaged_files(source.train, source.test, crop=recipe.evaluation_crop):
            _train(trainee, recipe, run, source, devices, start_step, total_steps, validate, callbacks, profile_steps)
        model.set_weights([weight.numpy() for weight in trainee.weights])  # float32, on one device
        trained = classifier_of(model, recipe.loss)
        evaluation = evaluate_source(trained, source, recipe)
        for remark in evaluation.remarks():
            log(remark)
        seconds = time.perf_counter() - started
        results = results_of(recipe, evaluation, start_accuracy, trained.count_params(), seconds)
        if devices.writes:
            trained.save(run.model)
            run.write_results(results)
        return FitResult(trained, run.read_metrics(), results)


def _silent(line):
    """The log, and the metrics file, of the processes that do not write."""


@contextlib.contextmanager
def _open_run(workdir, recipe, devices, parameters, log):
    """The folder of the run, locked and ready for training unless the run is finished."""
    with contextlib.ExitStack() as until_the_end:
        with devices.all_or_none():
            if devices.writes:
                run = run_directory(workdir, recipe)
                until_the_end.callback(run.close)
                if not run.finished:
                    if recipe.teacher is not None:
                        Teacher(recipe.teacher)  # raises before anything is written
                    for doubt in doubts(recipe):
                        log(doubt)
                    needed = parameters * BYTES_PER_PARAMETER * COPIES_ON_DISK
                    until_the_end.enter_context(run.prepared(needed, log))
        with devices.all_or_none():
            if not devices.writes:  # only now: a folder that is being created would be refused
                run = run_directory(workdir, recipe)
                until_the_end.callback(run.close)
                run.fetch()
        yield run


def _start(recipe, source, run, resumes, log):
    """The model that training starts from, and its `Start`."""
    start = Start.read(run.start) if resumes else None
    if start is not None:
        if start.teacher_sha256 != checksum(recipe):
            raise ValueError(
                f"The teacher {recipe.teacher} has changed since this run started. Restore it, or choose another "
                "--workdir."
            )
        return start.model(recipe, source), start
    model, accuracy = start_model(recipe, source, log), None
    if model.get_layer("head").kernel.numpy().any():  # the head of a model without weights is zero too
        accuracy = evaluate_source(model, source, recipe).top1  # logits rank classes like probabilities
        log(f"Before training: {accuracy:.2%} {recipe.part()} accuracy.")
    return model, Start.of(model, accuracy, checksum(recipe))


def _train(model, recipe, run, source, devices, start_step, total_steps, validate, users, profile_steps):
    """Trains a compiled model of logits from `start_step` to the last step."""
    with devices.scope():
        checkpoints = Checkpoints(run, recipe.checkpoint_every_steps, start_step)
        bar = ProgressBar(total_steps, start_step, recipe.part(), shown=devices.writes)
        epoch_steps = recipe.epoch_steps(source.train.size)
        parts = list(legs(start_step, epoch_steps, total_steps, recipe.steps_per_execution))
        user_callbacks = UserCallbacks(users, model, parts[-1].last_epoch if parts else 0, epoch_steps)
        callbacks: list[keras.callbacks.Callback] = [StopWhenDiverged(start_step), bar]
        if recipe.ema_momentum is not None:
            callbacks.append(ValidateAverage())
        callbacks.append(EpochMetrics(recipe.global_batch_size, run.append_metrics if devices.writes else _silent))
        if devices.writes:
            run.drop_metrics_after(start_step)
            tensorboard = keras.callbacks.TensorBoard
            callbacks.append(tensorboard(run.tensorboard, write_graph=False, profile_batch=profile_steps or 0))
            if is_mixer(model):
                images = None if start_step else functools.partial(example_images, source, recipe)
                callbacks.append(TensorBoardImages(run.tensorboard / "pictures", images, start_step, total_steps))
        if users:
            callbacks.append(user_callbacks)
        if devices.writes:
            callbacks.append(checkpoints)  # last: a run that resumes after an epoch does not call the others for it
        if devices.processes == 1:  # multiple processes would stop at different steps and wait for each other
            checkpoints.take_signals()
        try:
            for leg in parts:
                if leg.steps_per_execution != model.steps_per_execution:
                    compile_trainee(model, model.optimizer, recipe, devices, leg.steps_per_execution)
                model.fit(
                    training_batches(source.train, recipe, leg.first_step, devices),
                    steps_per_epoch=leg.steps_per_epoch,
                    initial_epoch=leg.first_epoch,
                    epochs=leg.last_epoch,
                    validation_data=validation_batches(source, recipe, devices) if validate else None,
                    callbacks=callbacks,
                    shuffle=False,  # the stream is shuffled; True only makes Keras warn
                    verbose=0,
                )
                if model.stop_training:
                    break
            if devices.writes and parts:
                checkpoints.finish()  # before the last evaluation, which may fail
            model.optimizer.take_average(model.trainable_variables)
            user_callbacks.end_training()
        finally:
            checkpoints.release_signals()
            bar.close()

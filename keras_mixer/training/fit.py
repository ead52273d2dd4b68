"""`fit`: a recipe and a folder in, a trained model out. Stops and resumes at any step. The only training loop."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_mixer.data.batches import padded_batches, training_batches
from keras_mixer.data.sources import data_name
from keras_mixer.data.splits import Source, naming_damaged_files
from keras_mixer.evaluation.accuracy import evaluate_source
from keras_mixer.mixer_model import MixerModel
from keras_mixer.models import Mixer
from keras_mixer.storage import local_copy
from keras_mixer.training.callbacks import RunCallbacks, checked_callbacks
from keras_mixer.training.devices import check_recipe, choose_devices, hide_gpus_from_tensorflow
from keras_mixer.training.inputs import describe_classes, log_known_images, own_data, training_source
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.recipes import resolve
from keras_mixer.training.run import FitResult, Run, read_json
from keras_mixer.training.training_model import TrainingModel
from keras_mixer.variants import token_grid
from keras_mixer.weights.loading import load_weights, open_weights
from keras_mixer.weights.resolution import rebuild, widened


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
        >>> keras_mixer.fit("digits", workdir="runs/digits").metrics["accuracy"]  # doctest: +SKIP
        0.997
    """
    recipe = resolve(recipe, **overrides)
    hide_gpus_from_tensorflow()
    recipe, source = own_data(recipe, overrides, train, test, log, class_names=class_names, classes=classes)
    return fit_model(recipe, workdir=workdir, source=source, callbacks=callbacks, skip_corrupt=skip_corrupt, log=log)


def fit_model(recipe, *, workdir, source=None, model=None, callbacks=(), skip_corrupt=False, log=print) -> FitResult:
    """`fit`, also for data and models that no recipe can name; the other arguments are those of `fit`.

    Args:
        recipe: a `Recipe`. With `source`, its data fields are not used; with `model`, its architecture and weights.
        source: the data, a `Source`.
        model: from pixels in [0, 255] to logits, with its initial weights; receives the trained ones. One that is not a
            Mixer trains in float32, on one device or on JAX. `xla_on_cpu` "auto" does not compile a given model.
    """
    callbacks = checked_callbacks(callbacks)
    devices = choose_devices(recipe.devices, recipe.compiles_on_cpu() if model is None else recipe.xla_on_cpu is True)
    with devices.all_or_none():
        run = Run(workdir, recipe, devices, log)
    with run.opened():
        if run.finished:
            return run.result()
        with devices.all_or_none():
            source = source or training_source(run, skip_corrupt)
            recipe = adapted_recipe(run, source)
            model, start, teacher = starting_point(run, recipe, source, model)
            with devices.scope():
                trainee = TrainingModel.of(model, recipe, devices, teacher)
                run.restore(trainee)
            run.begin(source, start, model.count_params())
        with naming_damaged_files(source.train, source.test), devices.scope():
            best = train_model(trainee, run, source, callbacks)
        classifier = trainee.classifier(model)
        evaluation = evaluate_source(classifier, source, recipe)
        return run.finish(recipe, classifier, evaluation, start_accuracy=start["accuracy"], **best)


def adapted_recipe(run: Run, source: Source) -> Recipe:
    """The recipe for the data, which `fit_small_data` changes; ValueError if data or devices do not suit it."""
    recipe, devices, classes = run.recipe, run.devices, len(source.class_names)
    run.log(describe_classes(source, recipe.part()))
    adapted = recipe.for_images(source.train.size)
    batch, warmup = adapted.global_batch_size, adapted.warmup_steps
    if (batch, warmup) != (recipe.global_batch_size, recipe.warmup_steps):
        run.log(
            f"{source.train.size} training images are few for this recipe: global_batch_size {batch} instead of "
            f"{recipe.global_batch_size}, warmup_steps {warmup} instead of {recipe.warmup_steps}."
        )
    check_recipe(adapted, devices)
    if isinstance(recipe.class_weights, tuple) and len(recipe.class_weights) != classes:
        raise ValueError(f"class_weights has {len(recipe.class_weights)} values, but the data have {classes} classes.")
    run.log(
        f"{recipe.name}: {source.train.size:,} training and {source.test.size:,} {recipe.part()} images of "
        f"{source.name}, {classes} classes; {devices.description}, {batch // devices.count} images per device and "
        f"{batch} per step"
    )
    return adapted


def starting_point(run, recipe, source, given):
    """The model of logits that training starts from, the content of `start.json`, and the `Teacher` or None."""
    teacher = None
    if recipe.teacher:
        from keras_mixer.training.teacher import Teacher  # few recipes have one

        with contextlib.nullcontext() if run.devices.distribution else run.devices.scope():
            teacher = Teacher(recipe.teacher, recipe.teacher_temperature)
    sha256 = teacher and teacher.sha256
    if run.resumes:
        start = read_json(run.start)
        model = given or keras.saving.deserialize_keras_object(start["model"])
        then, now = getattr(model, "class_names", None) or source.class_names, source.class_names
        if then != now:
            raise ValueError(f"The classes of {source.name!r} have changed since this run started: {then} to {now}.")
        if start["teacher"] != sha256:
            raise ValueError(f"The teacher {recipe.teacher} has changed since this run started. Restore it.")
    else:
        model, accuracy = given or start_model(recipe, source, run.log), None
        if given is None and model.get_layer("head").kernel.numpy().any():
            accuracy = evaluate_source(model, source, recipe).top1  # logits rank classes like probabilities
            run.log(f"Before training: {accuracy:.2%} {recipe.part()} accuracy.")
        start = {"accuracy": accuracy, "teacher": sha256, "model": keras.saving.serialize_keras_object(model)}
    if teacher:
        teacher.check_classes(model.output_shape[-1], source.class_names)
    for other in filter(None, (recipe.teacher, recipe.weights)):
        log_known_images(other, recipe, source, run.log)
    return model, start, teacher


def start_model(recipe: Recipe, source: Source, log) -> MixerModel:
    """The recipe's model of logits with its initial weights, in float32."""
    keras.utils.set_random_seed(recipe.seed)
    variant, method, file = recipe.architecture(), recipe.resolution_method, None
    if recipe.weights:
        file = starting_weights(recipe)
        if method == "block_diagonal":
            grid = token_grid(recipe.input_shape()[:2], variant.patch_size)
            variant = widened(variant, file.grid_for(grid), grid)
    model = Mixer(
        **dataclasses.asdict(variant),
        input_shape=recipe.input_shape(),
        classes=len(source.class_names),
        classifier_activation=None,
        dropout_rate=recipe.dropout_rate,
        drop_path_rate=recipe.drop_path_rate,
        name=f"mixer_{recipe.name}",
        **(file.form() if file else {}),
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


def starting_weights(recipe: Recipe):
    """The opened weights of a recipe; of a run, those of its model."""
    with local_copy(recipe.weights) as path:
        of_run = path / "model.keras"
        return open_weights(of_run if of_run.is_file() else path, recipe.architecture())


def segments(recipe, step=0) -> Iterator[tuple[int, int, int, int, bool]]:
    """The rest of an interrupted epoch, the frozen epochs, the others, and a last one that may be shorter.

    Each is a call of Keras's `fit`: its first step, first epoch, last epoch, steps per epoch, and whether it freezes.
    """
    steps, total, frozen = recipe.steps_per_epoch, recipe.steps, recipe.frozen_steps
    while step < total:
        epoch, done = divmod(step, steps)
        epochs, length = ((frozen if step < frozen else total) - step) // steps, steps
        if done or not epochs:
            epochs, length = 1, min(steps - done, total - step)
        yield step, epoch, epoch + epochs, length, step < frozen
        step += epochs * length


def train_model(trainee, run, source, callbacks) -> dict[str, Any]:
    """Trains to the end, from the step of the model; returns what the results say of the best epoch."""
    recipe, devices = trainee.recipe, trainee.devices
    validation = padded_batches(source.test, recipe, devices)  # once: the segments share its cache
    callbacks = RunCallbacks(trainee, run, callbacks)
    best = callbacks.best
    with callbacks.bar, callbacks.signals:
        callbacks.begin()
        for first_step, epoch, last_epoch, steps, freeze in segments(recipe, trainee.step):
            if trainee.stop_training or (best and best.done):
                break
            trainee.prepare(freeze)
            trainee.fit(
                training_batches(source.train, recipe, first_step, devices),
                steps_per_epoch=steps,
                initial_epoch=epoch,
                epochs=last_epoch,
                validation_data=validation,
                callbacks=callbacks,
                shuffle=False,  # the stream is shuffled; True only makes Keras warn
                verbose=0,
            )
            if freeze:
                callbacks.save_or_stop(due=True)  # while the optimizer is that of the head
        callbacks.save_or_stop(due=True)  # before the last evaluation, which may fail
        if best and best.weights:
            trainee.set_weights(best.weights)
        elif recipe.ema_momentum:
            trainee.optimizer.take_average(trainee.trainable_variables)
        callbacks.end(callbacks.logs)
    return best.results() if best and run.epochs else {}

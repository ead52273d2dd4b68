"""Callbacks of a run: progress and metrics, checkpoints, the best epoch, and a clean stop on Ctrl-C or divergence."""

import contextlib
import math
import signal
import sys
import threading
import time

import keras
import numpy as np
from tqdm.auto import tqdm

from keras_mixer.files import atomic_write
from keras_mixer.weights.readers import read_arrays

LONGEST_UNSAVED = 600  # seconds without a checkpoint
REPLACED = {  # callbacks of Keras that would do again what a run does
    keras.callbacks.LearningRateScheduler | keras.callbacks.ReduceLROnPlateau: "choose learning_rate and schedule",
    keras.callbacks.BackupAndRestore: "call fit again to resume",
    keras.callbacks.SwapEMAWeights: "ema_momentum already validates and saves the average",
}


class TrainingDiverged(ValueError):
    """The loss or its gradient is no longer finite."""


class RunStopped(KeyboardInterrupt):
    """A signal stopped the run; a checkpoint has been saved."""


def check_finite(step, **values):
    """Raises TrainingDiverged if a loss or gradient norm is not finite."""
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"The {name} is {value} by step {step}: training diverged and was stopped. Earlier checkpoints are "
                "kept. Lower --learning-rate, raise --warmup-steps or clip with --clip-norm 1, in another --workdir."
            )


class BestEpoch(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the best validation accuracy, and stops when it stays the best for long."""

    def __init__(self, run):
        super().__init__()
        self.run, self.keeps = run, run.recipe.keep == "best"
        if run.recipe.part() == "test":
            run.log("The best epoch is chosen on the test images, so its accuracy is too high; better: --holdout 0.1.")
        self.weights = list(read_arrays(run.best_file).values()) if self.keeps and run.epochs else None

    @property
    def epochs_since(self) -> int:
        """The number of epochs since the first of the best."""
        accuracies = self.run.history.get("val_accuracy")
        return len(accuracies) - 1 - int(np.argmax(accuracies)) if accuracies else 0

    @property
    def done(self) -> bool:
        """Whether the best epoch has stayed the best for long, not counting epochs that trained only the head."""
        recipe = self.run.recipe
        trained = len(self.run.epochs) - (0 if recipe.freeze_epochs == "all" else recipe.freeze_epochs)
        return recipe.patience is not None and min(self.epochs_since, trained) >= recipe.patience

    def on_epoch_end(self, epoch, logs=None):
        if self.keeps and self.epochs_since == 0:
            self.weights = self.model.get_weights()
            if self.run.writes:
                with atomic_write(self.run.best_file) as temporary:
                    np.savez(temporary, *self.weights)
        if self.done:
            self.model.stop_training = True

    def results(self):
        """What `results.json` says of the best epoch, which is logged too."""
        accuracies = self.run.history["val_accuracy"]
        best = int(np.argmax(accuracies))
        found = {"best_epoch": best, "best_accuracy": accuracies[best], "last_accuracy": accuracies[-1]}
        self.run.log(
            f"Best validation accuracy {found['best_accuracy']:.2%} after epoch {best + 1} of {len(accuracies)}, "
            f"last {found['last_accuracy']:.2%}; kept: the {self.run.recipe.keep}."
        )
        return found


class MovingAverage(keras.callbacks.Callback):
    """Puts the moving average into the model for validation and the callbacks before this one, then takes it out again.

    Keras's `SwapEMAWeights` adds and subtracts on TensorFlow, which rounds.
    """

    def on_test_begin(self, logs=None):
        variables = self.model.trainable_variables
        self.trained = [np.array(variable.numpy()) for variable in variables]
        self.model.optimizer.take_average(variables)

    def on_epoch_end(self, epoch, logs=None):
        for variable, value in zip(self.model.trainable_variables, self.trained, strict=True):
            variable.assign(value)


def checked_callbacks(callbacks) -> list[keras.callbacks.Callback]:
    """A callback, or some, as a list; ValueError for anything else, and for `REPLACED`."""
    found = keras.tree.flatten(callbacks or [])
    for callback in found:
        if not isinstance(callback, keras.callbacks.Callback):
            raise ValueError(f"callbacks must be a list of keras.callbacks.Callback objects, got {callback!r:.200}.")
        for kinds, advice in REPLACED.items():
            if isinstance(callback, kinds):
                raise ValueError(f"{type(callback).__name__} does what a run does by itself; {advice}.")
    return found


class RunCallbacks(keras.callbacks.CallbackList):
    """The user's callbacks, and around them what a run does: progress bar, metrics, checkpoints, a clean stop.

    They see one training, although Keras's `fit` is called for each part of it. At the end of an epoch its metrics are
    written before they are called, and its checkpoint after that: a run that it resumes calls none for that epoch.

    A signal only sets a flag, which is looked at between two steps, when the state is consistent. A second Ctrl-C stops
    at once, without a checkpoint, as does one while the first step is compiled.
    """

    begin, end = keras.callbacks.CallbackList.on_train_begin, keras.callbacks.CallbackList.on_train_end
    logs = None  # of the last epoch
    compiling, stop_requested = True, False

    def __init__(self, trainee, run, of_user):
        recipe, step = trainee.recipe, trainee.step
        self.run, self.recipe, self.step = run, recipe, step
        self.saved, self.saved_at = step, time.monotonic()
        self.signals = contextlib.ExitStack()  # restores the previous signal handlers
        self.bar = tqdm(
            total=recipe.steps,
            initial=step,
            unit="step",
            desc="compiling",  # the bar does not move before the first step ends
            mininterval=0.2 if sys.stderr.isatty() else 10,  # in a log file each update is a new line
            disable=not run.writes,
        )
        self.best = BestEpoch(run) if recipe.keep == "best" or recipe.patience else None
        own: list[keras.callbacks.Callback] = [self.best] if self.best else []
        if run.writes:
            own += [keras.callbacks.TensorBoard(run.tensorboard, write_graph=False)]
        averages = [MovingAverage()] if recipe.ema_momentum else []
        epochs = {"epochs": -(-recipe.steps // recipe.steps_per_epoch), "steps": recipe.steps_per_epoch}
        super().__init__([*own, *of_user, *averages], add_history=True, model=trainee, verbose=0, **epochs)

    def on_train_begin(self, logs=None):
        """Does nothing, like `on_train_end`: Keras calls both for each part. `begin` and `end` are called once."""

    on_train_end = on_train_begin

    def on_train_batch_begin(self, batch, logs=None):
        self.save_or_stop()
        if batch == 0:
            self.began = time.perf_counter()
        super().on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)  # waits until the step has ended
        self.step += 1
        self.steps, self.ended = batch + 1, time.perf_counter()  # excludes validation, which follows the last batch
        if self.compiling:
            self.compiling = False
            self.bar.set_description("training", refresh=False)
            self.bar.unpause()  # its steps per second leave the compilation out
            # Python allows signal handlers only in the main thread. Multiple processes would stop at different steps.
            if threading.current_thread() is threading.main_thread() and self.run.devices.processes == 1:
                for number in (signal.SIGINT, signal.SIGTERM):
                    self.signals.callback(signal.signal, number, signal.signal(number, self._request_stop))
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        optimizer, images = self.model.optimizer, self.steps * self.recipe.global_batch_size
        self.logs = logs = {name: float(value) for name, value in logs.items()} | {
            "images_per_second": images / (self.ended - self.began),
            "step": self.step,
            "learning_rate": float(optimizer.learning_rate),
            "gradient_norm": float(optimizer.gradient_norm.numpy()),
            # Within the epoch: loss and accuracy are those of the rest of it.
            "resumed": float((self.step - self.steps) % self.recipe.steps_per_epoch > 0),
        }
        check_finite(self.step, loss=logs["loss"], gradient=logs["gradient_norm"])
        self.run.write_metrics({"epoch": epoch, **logs})
        names = {"loss": "loss", "accuracy": "train accuracy", "val_accuracy": self.recipe.part()}
        self.bar.set_postfix({short: f"{logs[name]:.4f}" for name, short in names.items()}, refresh=False)
        super().on_epoch_end(epoch, logs)
        # A run must not resume before its best epoch.
        self.save_or_stop(due=self.best is not None and self.best.keeps and self.best.epochs_since == 0)
        if self.run.writes:
            self.run.publish()

    def save_or_stop(self, due=False):
        """Saves the present step once if it is due; then stops the run, if that was requested."""
        due = due or self.stop_requested or self.step % self.recipe.checkpoint_every_steps == 0
        due = due or time.monotonic() - self.saved_at > LONGEST_UNSAVED
        if due and self.saved != self.step and self.run.writes:
            model = self.model  # on JAX this property updates the variables
            check_finite(self.step, gradient=float(model.optimizer.gradient_norm.numpy()))
            self.run.save_checkpoint(model, self.step)
            self.saved, self.saved_at = self.step, time.monotonic()
        if self.stop_requested:
            raise RunStopped(f"stopped at step {self.step}")

    def _request_stop(self, number, frame):
        self.stop_requested = True
        self.signals.close()

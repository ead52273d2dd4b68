"""Callbacks of a run: progress and metrics, checkpoints, the best epoch, and a clean stop on Ctrl-C or divergence."""

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


class Progress(keras.callbacks.Callback):
    """A progress bar for the whole run, more logs, and a row of metrics for each epoch; must be the first callback."""

    compiling = True

    def __init__(self, run, step, total_steps):
        super().__init__()
        self.run = run
        self.bar = tqdm(
            total=total_steps,
            initial=step,
            unit="step",
            desc="compiling",  # the bar does not move before the first step ends
            mininterval=0.2 if sys.stderr.isatty() else 10,  # in a log file each update is a new line
            disable=not run.devices.writes,
        )

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.steps, self.ended = batch + 1, time.perf_counter()  # excludes validation, which follows the last batch
        if self.compiling:
            self.compiling = False
            self.bar.set_description("training", refresh=False)
            self.bar.unpause()  # its steps per second leave the compilation out
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        recipe, optimizer, step = self.model.recipe, self.model.optimizer, self.model.step
        logs["images_per_second"] = self.steps * recipe.global_batch_size / (self.ended - self.began)
        logs["step"] = step
        logs["learning_rate"] = float(optimizer.learning_rate)
        logs["gradient_norm"] = float(optimizer.gradient_norm.numpy())
        # Within the epoch: loss and accuracy are those of the rest of it.
        logs["resumed"] = float((step - self.steps) % recipe.steps_per_epoch > 0)
        check_finite(step, loss=logs["loss"], gradient=logs["gradient_norm"])
        if self.run.devices.writes:
            self.run.write_metrics(step, {"epoch": epoch, **{name: float(value) for name, value in logs.items()}})
        names = {"loss": "loss", "accuracy": "train accuracy", "val_accuracy": recipe.part()}
        self.bar.set_postfix({short: f"{logs[name]:.4f}" for name, short in names.items()}, refresh=False)


class BestEpoch(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the best validation accuracy, and stops when it stays the best for long."""

    def __init__(self, run, step):
        super().__init__()
        self.run, self.keeps = run, run.recipe.keep == "best"
        # Of a run that resumes, without the epochs that it repeats: each process decides alone, and they must agree.
        self.accuracies = [float(row["val_accuracy"]) for row in run.epochs_until(step)]
        self.weights = list(read_arrays(run.best).values()) if self.keeps and self.accuracies else None

    @property
    def epochs_since(self) -> int:
        """The number of epochs since the first of the best."""
        return len(self.accuracies) - 1 - int(np.argmax(self.accuracies)) if self.accuracies else 0

    @property
    def done(self) -> bool:
        """Whether the best epoch has stayed the best for long, not counting epochs that trained only the head."""
        recipe = self.run.recipe
        trained = len(self.accuracies) - (0 if recipe.freeze_epochs == "all" else recipe.freeze_epochs)
        return recipe.patience is not None and min(self.epochs_since, trained) >= recipe.patience

    def on_epoch_end(self, epoch, logs=None):
        self.accuracies.append(logs["val_accuracy"])
        if self.keeps and self.epochs_since == 0:
            self.weights = self.model.get_weights()
            if self.run.devices.writes:
                with atomic_write(self.run.best) as temporary:
                    np.savez(temporary, *self.weights)
        if self.done:
            self.model.stop_training = True

    def results(self):
        """What `results.json` says of the best epoch, which is logged too."""
        best = int(np.argmax(self.accuracies))
        found = {"best_epoch": best, "best_accuracy": self.accuracies[best], "last_accuracy": self.accuracies[-1]}
        self.run.log(
            f"Best validation accuracy {found['best_accuracy']:.2%} after epoch {best + 1} of {len(self.accuracies)}, "
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
    found = list(callbacks or ()) if isinstance(callbacks, list | tuple | None) else [callbacks]
    for callback in found:
        if not isinstance(callback, keras.callbacks.Callback):
            raise ValueError(f"callbacks must be a list of keras.callbacks.Callback objects, got {callback!r:.200}.")
        for advice in (advice for kinds, advice in REPLACED.items() if isinstance(callback, kinds)):
            raise ValueError(f"{type(callback).__name__} does what a run does by itself; {advice}.")
    return found


class Checkpoints(keras.callbacks.Callback):
    """Saves checkpoints at a step interval, every ten minutes, at each best epoch, on Ctrl-C and SIGTERM; must be last.

    A signal only sets a flag, which is looked at between two steps, when the state is consistent. A second Ctrl-C stops
    at once, without a checkpoint, as does one while the first step is compiled.
    """

    def __init__(self, run, start_step, best):
        super().__init__()
        self.run, self.best, self.step, self.saved = run, best, start_step, start_step
        self.saved_at, self.stop_requested, self.handlers = time.monotonic(), False, {}
        # Python allows signal handlers only in the main thread. Multiple processes would stop at different steps.
        in_main_thread = threading.current_thread() is threading.main_thread()
        self.signals = (signal.SIGINT, signal.SIGTERM) if in_main_thread and run.devices.processes == 1 else ()

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        for number in self.signals:
            self.handlers[number] = signal.signal(number, self._request_stop)
        self.signals = ()

    def on_train_batch_begin(self, batch, logs=None):
        self.save()

    def on_epoch_end(self, epoch, logs=None):
        # After the epoch's metrics, which a run resumed here would not write. A run must not resume before its best.
        self.save(due=self.best is not None and self.best.keeps and self.best.epochs_since == 0)
        if self.run.devices.writes:
            self.run.publish()

    def release_signals(self):
        """Restores the previous signal handlers."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def _request_stop(self, number, frame):
        self.stop_requested = True
        self.release_signals()

    def save(self, due=False):
        """Saves the present step once if it is due; then stops the run, if that was requested."""
        due = due or self.stop_requested or self.step % self.run.recipe.checkpoint_every_steps == 0
        due = due or time.monotonic() - self.saved_at > LONGEST_UNSAVED
        if due and self.saved != self.step and self.run.devices.writes:
            model = self.model  # on JAX this property updates the variables
            check_finite(self.step, gradient=float(model.optimizer.gradient_norm.numpy()))
            self.run.save_checkpoint(model, self.step)
            self.saved, self.saved_at = self.step, time.monotonic()
        if self.stop_requested:
            raise RunStopped(f"stopped at step {self.step}")


class RunCallbacks(keras.callbacks.CallbackList):
    """All callbacks of a run. They see one training, although Keras's `fit` is called for each part of it."""

    begin, end = keras.callbacks.CallbackList.on_train_begin, keras.callbacks.CallbackList.on_train_end
    last_logs = None

    def __init__(self, trainee, run, of_user, profile_steps):
        recipe, step = trainee.recipe, trainee.step
        self.best = BestEpoch(run, step) if recipe.keep == "best" or recipe.patience else None
        self.progress, self.checkpoints = Progress(run, step, recipe.steps), Checkpoints(run, step, self.best)
        own: list[keras.callbacks.Callback] = [self.progress]
        if run.devices.writes:
            own += [keras.callbacks.TensorBoard(run.tensorboard, write_graph=False, profile_batch=profile_steps or 0)]
        own += [self.best] if self.best else []
        averages = [MovingAverage()] if recipe.ema_momentum else []
        super().__init__(
            [*own, *of_user, *averages, self.checkpoints],  # last: a run that it resumes calls no other for its epoch
            add_history=True,
            model=trainee,
            epochs=-(-recipe.steps // recipe.steps_per_epoch),
            steps=recipe.steps_per_epoch,
            verbose=0,
        )

    def on_train_begin(self, logs=None):
        """Does nothing, for each part; `begin` is called once."""

    def on_train_end(self, logs=None):
        self.last_logs = logs

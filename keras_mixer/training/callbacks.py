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


class TrainingDiverged(ValueError):
    """The loss or its gradient is no longer finite."""


class RunStopped(KeyboardInterrupt):
    """A signal stopped the run; a checkpoint of `step` has been saved."""

    def __init__(self, step):
        super().__init__(f"stopped at step {step}")
        self.step = step


class StepCounter(keras.callbacks.Callback):
    """Counts optimizer steps without asking the device; Keras reports only every n-th with steps_per_execution=n."""

    def __init__(self, start_step):
        super().__init__()
        self.step = start_step

    def on_train_batch_begin(self, batch, logs=None):
        self.first = batch

    def on_train_batch_end(self, batch, logs=None):
        self.new_steps = batch - self.first + 1
        self.step += self.new_steps


class Progress(StepCounter):
    """A progress bar for the whole run, and a row of metrics for each epoch; must be the first callback.

    Adds step, learning rate, gradient norm, images per second, and whether the run was resumed within the epoch, to
    the logs; loss and accuracy then are those of the rest of the epoch.

    Raises:
        TrainingDiverged: the loss or the gradient of an epoch is not finite.
    """

    def __init__(self, recipe, start_step, total_steps, append_row=None):
        super().__init__(start_step)
        self.recipe, self.append_row, self.resumed = recipe, append_row, False
        in_log_file = not sys.stderr.isatty()  # there each update is a new line
        self.bar = tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            desc="starting",
            mininterval=10 if in_log_file else 0.2,
            disable=append_row is None,
        )

    def on_train_begin(self, logs=None):
        self.bar.set_description("compiling")  # the bar does not move before the first step ends

    def on_epoch_begin(self, epoch, logs=None):
        self.began = self.ended = time.perf_counter()
        self.began_at = self.step

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        self.ended = time.perf_counter()  # excludes validation, which follows the last batch
        self.bar.set_description("training", refresh=False)
        self.bar.update(self.new_steps)

    def on_epoch_end(self, epoch, logs=None):
        check_finite(self.model, self.step, logs["loss"])
        images = (self.step - self.began_at) * self.recipe.global_batch_size
        optimizer = self.model.optimizer
        logs["images_per_second"] = images / (self.ended - self.began)
        logs["step"] = int(optimizer.iterations.numpy())
        logs["learning_rate"] = float(optimizer.learning_rate)
        logs["gradient_norm"] = float(optimizer.gradient_norm.numpy())
        logs["resumed"] = float(self.resumed)
        self.resumed = False
        if self.append_row is not None:
            self.append_row({"epoch": epoch, **{name: float(value) for name, value in logs.items()}})
        names = {"loss": "loss", "accuracy": "train", "val_accuracy": self.recipe.part()}
        self.bar.set_postfix({short: f"{logs[name]:.4f}" for name, short in names.items() if name in logs}, False)

    def on_test_begin(self, logs=None):
        self.average = averaged(self.model)  # which is validated
        self.average.__enter__()

    def on_test_end(self, logs=None):
        self.average.__exit__(None, None, None)


def check_finite(model, step, loss=None):
    """Raises TrainingDiverged if the mean loss, by default that since the last reset, or the gradient is not finite."""
    loss = model._loss_tracker.result() if loss is None else loss
    for name, value in {"loss": loss, "gradient": model.optimizer.gradient_norm}.items():
        if not math.isfinite(found := float(keras.ops.convert_to_numpy(value))):
            raise TrainingDiverged(
                f"The {name} is {found} by step {step}: training diverged and was stopped. Earlier checkpoints are "
                "kept. Lower --learning-rate, lengthen --warmup-steps, or clip with --clip-norm 1, in another "
                "--workdir."
            )


@contextlib.contextmanager
def averaged(model):
    """In the block, the model has the moving average of its weights, if it has one; after it, those being trained.

    Keras's `SwapEMAWeights` swaps them by adding and subtracting on TensorFlow, which introduces rounding errors.
    """
    if not model.optimizer.use_ema:
        yield
        return
    variables = model.trainable_variables
    trained = [np.array(variable.numpy()) for variable in variables]
    model.optimizer.take_average(variables)
    try:
        yield
    finally:
        for variable, value in zip(variables, trained, strict=True):
            variable.assign(value)


class BestEpoch(keras.callbacks.Callback):
    """Keeps the weights of the epoch with the best validated accuracy, and stops when it stays the best for long.

    Args:
        run: whose `save_best` is called, if the recipe keeps the best.
        accuracies: of the epochs before, if the run resumes.
    """

    def __init__(self, run, accuracies):
        super().__init__()
        self.run, self.accuracies, self.weights = run, list(accuracies), None

    def on_epoch_end(self, epoch, logs=None):
        recipe = self.run.recipe
        self.accuracies.append(logs["val_accuracy"])
        since = len(self.accuracies) - 1 - int(np.argmax(self.accuracies))  # epochs since the first of the best
        if recipe.keep == "best" and since == 0:
            self.weights = self.model.get_weights()
            if self.run.writes:
                self.run.save_best(self.model)
        if recipe.patience is not None and since >= recipe.patience:
            self.model.stop_training = True

    def restore(self, model):
        """Gives a model the weights of the best epoch."""
        if self.weights is None:  # it was before the run resumed
            self.run.restore_best(model)
        else:
            model.set_weights(self.weights)

    def results(self):
        """What `results.json` says of the best epoch, which is logged too."""
        best = int(np.argmax(self.accuracies))
        found = {"best_epoch": best, "best_accuracy": self.accuracies[best], "last_accuracy": self.accuracies[-1]}
        self.run.log(
            f"Best validated accuracy {found['best_accuracy']:.2%} after epoch {best + 1} of {len(self.accuracies)}, "
            f"last {found['last_accuracy']:.2%}; kept: the {self.run.recipe.keep}."
        )
        return found


class UserCallbacks(keras.callbacks.CallbackList):
    """The callbacks passed to `fit`: they see one training, although Keras's `fit` may be called for parts of it.

    Args:
        callbacks: Keras callbacks.
        model: the model being trained, which outputs logits.
        epochs: number of epochs of the run.
        steps: number of steps in an epoch.
    """

    def __init__(self, callbacks, model, epochs, steps):
        self.began, self.last_logs = False, None
        super().__init__(list(callbacks), model=model)
        super().set_params({"verbose": 0, "epochs": epochs, "steps": steps})

    def set_params(self, params):
        """Ignores the epochs and steps of a part."""

    def on_train_begin(self, logs=None):
        if not self.began:
            self.began = True
            super().on_train_begin(logs)

    def on_epoch_end(self, epoch, logs=None):
        with averaged(self.callbacks[0].model):  # on JAX this property updates the variables
            super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        self.last_logs = logs

    def end_training(self):
        """Calls `on_train_end` of the callbacks, after the last part."""
        if self.began:
            super().on_train_end(self.last_logs)


def checked_callbacks(callbacks) -> list[keras.callbacks.Callback]:
    """A callback, or some, as a list; ValueError for anything else, and for those that set the learning rate."""
    found = list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks]
    for callback in found:
        if not isinstance(callback, keras.callbacks.Callback):
            raise ValueError(f"callbacks must be a list of keras.callbacks.Callback objects, got {callback!r:.200}.")
        if isinstance(callback, keras.callbacks.LearningRateScheduler | keras.callbacks.ReduceLROnPlateau):
            raise ValueError(
                f"{type(callback).__name__} sets the learning rate, which the schedule of the recipe does. Choose "
                "learning_rate, warmup_steps and schedule instead."
            )
    return found


class Checkpoints(StepCounter):
    """Saves a checkpoint every so many steps, and another when Ctrl-C or SIGTERM asks to stop; must be the last.

    A signal only sets a flag, which is looked at between two steps, when the state is consistent. Then a checkpoint is
    saved and `RunStopped` is raised. A second Ctrl-C stops at once, without a checkpoint, as does one before the first
    step has ended, while the step is compiled.
    """

    def __init__(self, run, start_step, takes_signals):
        super().__init__(start_step)
        self.run, self.takes_signals = run, takes_signals
        self.saved, self.due, self.stop_requested = start_step, False, False
        self.handlers = {}

    def on_train_batch_end(self, batch, logs=None):
        before, every = self.step, self.run.recipe.checkpoint_every_steps
        super().on_train_batch_end(batch, logs)
        self.due = self.due or self.step // every > before // every
        # Python allows signal handlers only in the main thread.
        if self.takes_signals and threading.current_thread() is threading.main_thread():
            self.takes_signals = False
            for number in (signal.SIGINT, signal.SIGTERM):
                self.handlers[number] = signal.signal(number, self._request_stop)

    def on_train_batch_begin(self, batch, logs=None):
        super().on_train_batch_begin(batch, logs)
        self._save_or_stop()

    def on_epoch_end(self, epoch, logs=None):
        self._save_or_stop()  # after the epoch's metrics, which a run resumed here would not write
        self.run.publish()

    def finish(self):
        """Saves the last step, if it is not saved yet."""
        self.due = self.saved != self.step
        self._save_or_stop()

    def release_signals(self):
        """Restores the previous signal handlers."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def _request_stop(self, number, frame):
        self.stop_requested = True
        self.release_signals()

    def _save_or_stop(self):
        if self.due or self.stop_requested:
            model = self.model  # on JAX this property updates the variables
            check_finite(model, self.step)
            self.run.save_checkpoint(model, self.step)
            self.due, self.saved = False, self.step
        if self.stop_requested:
            raise RunStopped(self.step)

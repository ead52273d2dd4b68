"""Callbacks of a run: progress bar, metrics, checkpoints, and a clean stop on Ctrl-C or divergence."""

import contextlib
import math
import signal
import sys
import threading
import time

import keras
import numpy as np
from tqdm.auto import tqdm

from keras_mixer.training.checkpoints import save_checkpoint


class StepCounter(keras.callbacks.Callback):
    """Counts optimizer steps. Keras reports batches per epoch, and only every n-th with steps_per_execution=n."""

    def __init__(self, start_step=0):
        super().__init__()
        self.step = start_step

    def on_train_batch_begin(self, batch, logs=None):
        self.first = batch

    def on_train_batch_end(self, batch, logs=None):
        self.new_steps = batch - self.first + 1
        self.step += self.new_steps


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
        model = self.callbacks[0].model  # on JAX this property updates the variables
        with (
            averaged(model) if model.optimizer.use_ema else contextlib.nullcontext()
        ):  # the weights that were validated
            super().on_epoch_end(epoch, logs)

    def on_train_end(self, logs=None):
        self.last_logs = logs

    def end_training(self):
        """Calls `on_train_end` of the callbacks, after the last part."""
        if self.began:
            super().on_train_end(self.last_logs)


def check_callbacks(callbacks):
    """Raises ValueError if there is something else than Keras callbacks."""
    for callback in callbacks:
        if not isinstance(callback, keras.callbacks.Callback):
            raise ValueError(f"callbacks must be a list of keras.callbacks.Callback objects, got {callback!r:.200}.")


class ProgressBar(StepCounter):
    """One progress bar for all steps of a run, with the loss and accuracies of the last epoch."""

    def __init__(self, total_steps, start_step, part="test", shown=True):
        super().__init__(start_step)
        self.part = part
        in_log_file = not sys.stderr.isatty()  # there each update is a new line
        self.bar = tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            desc="starting",
            mininterval=10 if in_log_file else 0.2,
            disable=not shown,
        )

    def on_train_begin(self, logs=None):
        self.bar.set_description("compiling")  # the bar does not move before the first step ends

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        self.bar.set_description("training", refresh=False)
        self.bar.update(self.new_steps)

    def on_epoch_end(self, epoch, logs=None):
        names = {"loss": "loss", "accuracy": "train", "val_accuracy": self.part}
        values = {short: f"{logs[name]:.4f}" for name, short in names.items() if name in logs}
        self.bar.set_postfix(values, refresh=False)

    def close(self):
        """Ends the line of the progress bar."""
        self.bar.close()


class EpochMetrics(StepCounter):
    """Adds step, learning rate, gradient norm and images per second to the logs of an epoch; before TensorBoard."""

    def __init__(self, batch_size, append_row):
        super().__init__()
        self.batch_size = batch_size
        self.append_row = append_row

    def on_epoch_begin(self, epoch, logs=None):
        self.began = self.ended = time.perf_counter()
        self.step = 0

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        self.ended = time.perf_counter()  # excludes validation, which follows the last batch

    def on_epoch_end(self, epoch, logs=None):
        optimizer = self.model.optimizer
        seconds = self.ended - self.began
        logs["images_per_second"] = self.step * self.batch_size / seconds
        logs["step"] = int(optimizer.iterations.numpy())
        logs["learning_rate"] = float(optimizer.learning_rate)
        logs["gradient_norm"] = float(optimizer.gradient_norm.numpy())
        self.append_row({"epoch": epoch, **{name: float(value) for name, value in logs.items()}})


@contextlib.contextmanager
def averaged(model):
    """In the block, the model has the moving average of its weights; after it, exactly those being trained.

    Keras's `SwapEMAWeights` swaps them by adding and subtracting on TensorFlow, which introduces rounding errors.
    """
    variables = model.trainable_variables
    trained = [np.array(variable.numpy()) for variable in variables]
    model.optimizer.take_average(variables)
    try:
        yield
    finally:
        for variable, value in zip(variables, trained, strict=True):
            variable.assign(value)


class ValidateAverage(keras.callbacks.Callback):
    """Validates the moving average of the weights."""

    def on_test_begin(self, logs=None):
        self.average = averaged(self.model)
        self.average.__enter__()

    def on_test_end(self, logs=None):
        self.average.__exit__(None, None, None)


class TrainingDiverged(ValueError):
    """The loss or its gradient is no longer finite."""


class StopWhenDiverged(StepCounter):
    """Stops a run at the first step whose loss is not finite, before it is saved; must be the first callback."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        check_finite("loss", float(logs["loss"]), self.step)

    def on_epoch_end(self, epoch, logs=None):
        check_finite("gradient", float(self.model.optimizer.gradient_norm.numpy()), self.step)


def check_finite(name, value, step):
    """Raises TrainingDiverged if a value is not finite."""
    if not math.isfinite(value):
        raise TrainingDiverged(
            f"The {name} is {value} at step {step}: training diverged and was stopped. Earlier checkpoints are kept. "
            "Lower --learning-rate, lengthen --warmup-steps, or clip with --clip-norm 1, in another --workdir."
        )


class RunStopped(KeyboardInterrupt):
    """A signal stopped the run; a checkpoint of `step` has been saved."""

    def __init__(self, step):
        super().__init__(f"stopped at step {step}")
        self.step = step


class Checkpoints(StepCounter):
    """Saves a checkpoint every `every_steps` steps, and another when Ctrl-C or SIGTERM requests a stop.

    A signal only sets a flag, which is checked between two steps, when the state is consistent. Then a checkpoint is
    saved and `RunStopped` is raised. A second Ctrl-C stops immediately, without a checkpoint.
    """

    def __init__(self, run, every_steps, start_step):
        super().__init__(start_step)
        self.run = run
        self.every_steps = every_steps
        self.due = self.stop_requested = False
        self.saved = start_step
        self.handlers = {}

    def take_signals(self):
        """From now on Ctrl-C and SIGTERM request a clean stop."""
        if threading.current_thread() is threading.main_thread():  # Python allows signal handlers only there
            for number in (signal.SIGINT, signal.SIGTERM):
                self.handlers[number] = signal.signal(number, self._request_stop)

    def release_signals(self):
        """Restores the previous signal handlers."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def _request_stop(self, number, frame):
        self.stop_requested = True
        self.release_signals()

    def on_train_batch_end(self, batch, logs=None):
        before = self.step
        super().on_train_batch_end(batch, logs)
        self.due = self.due or self.step // self.every_steps > before // self.every_steps

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

    def _save_or_stop(self):
        if self.due or self.stop_requested:
            model = self.model  # on JAX this property updates the variables
            check_finite("gradient", float(model.optimizer.gradient_norm.numpy()), self.step)
            save_checkpoint(self.run.checkpoints, model, self.step)
            self.run.publish()
            self.due, self.saved = False, self.step
        if self.stop_requested:
            raise RunStopped(self.step)

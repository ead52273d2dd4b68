"""What happens beside training: one progress bar, metrics, checkpoints, a clean stop on Ctrl-C or divergence."""

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
    """Counts optimizer steps; Keras tells batches within an epoch, and several at once with steps_per_execution."""

    def __init__(self, start_step=0):
        super().__init__()
        self.step = start_step

    def on_train_batch_begin(self, batch, logs=None):
        self.first = batch

    def on_train_batch_end(self, batch, logs=None):
        self.new_steps = batch - self.first + 1
        self.step += self.new_steps


class ProgressBar(StepCounter):
    """One bar over all steps of a run, with the last epoch's loss and accuracies."""

    def __init__(self, total_steps, start_step, shown=True):
        super().__init__(start_step)
        quiet = not sys.stderr.isatty()  # in a log file, a line now and then
        self.bar = tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            desc="training",
            mininterval=10 if quiet else 0.2,
            disable=not shown,
        )

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        self.bar.update(self.new_steps)

    def on_epoch_end(self, epoch, logs=None):
        names = {"loss": "loss", "accuracy": "train", "val_accuracy": "test"}
        values = {short: f"{logs[name]:.4f}" for name, short in names.items() if name in logs}
        self.bar.set_postfix(values, refresh=False)

    def close(self):
        """Ends the bar's line."""
        self.bar.close()


class EpochMetrics(StepCounter):
    """Adds step, learning rate, gradient norm and images a second to an epoch's logs; goes before TensorBoard."""

    def __init__(self, batch_size, append_row):
        super().__init__()
        self.batch_size = batch_size
        self.append_row = append_row

    def on_epoch_begin(self, epoch, logs=None):
        self.began = self.ended = time.perf_counter()
        self.step = 0

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        self.ended = time.perf_counter()  # validation comes after the last batch and does not count

    def on_epoch_end(self, epoch, logs=None):
        optimizer = self.model.optimizer
        seconds = self.ended - self.began
        logs["images_per_second"] = self.step * self.batch_size / seconds
        logs["step"] = int(optimizer.iterations.numpy())
        logs["learning_rate"] = float(optimizer.learning_rate)
        logs["gradient_norm"] = float(optimizer.gradient_norm.numpy())
        self.append_row({"epoch": epoch, **{name: float(value) for name, value in logs.items()}})


class ValidateAverage(keras.callbacks.Callback):
    """Validates the running average of the weights; training goes on from the very weights that were there before.

    Keras's own `SwapEMAWeights` exchanges them by adding and subtracting on TensorFlow, which rounds them.
    """

    def on_test_begin(self, logs=None):
        variables = self.model.trainable_variables
        self.kept = [np.array(variable.numpy()) for variable in variables]
        self.model.optimizer.take_average(variables)

    def on_test_end(self, logs=None):
        for variable, value in zip(self.model.trainable_variables, self.kept, strict=True):
            variable.assign(value)


class TrainingDiverged(ValueError):
    """The loss or its gradient is no finite number any more."""


class StopWhenDiverged(StepCounter):
    """Stops a run at the step whose loss is not finite, before anything of it is kept; goes before all others."""

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)
        check_finite("loss", float(logs["loss"]), self.step)

    def on_epoch_end(self, epoch, logs=None):
        check_finite("gradient", float(self.model.optimizer.gradient_norm.numpy()), self.step)


def check_finite(name, value, step):
    """Raises TrainingDiverged unless a number of the run is finite."""
    if not math.isfinite(value):
        raise TrainingDiverged(
            f"The {name} is {value} at step {step}: training diverged and was stopped. Checkpoints of finite steps are "
            "kept. Lower --learning-rate, lengthen --warmup-steps, or clip with --clip-norm 1, in another --workdir."
        )


class RunStopped(KeyboardInterrupt):
    """A signal stopped a run; everything up to `step` is in a checkpoint."""

    def __init__(self, step):
        super().__init__(f"stopped at step {step}")
        self.step = step


class Checkpoints(StepCounter):
    """Writes a checkpoint every so many steps, and one more when asked to stop by Ctrl-C or SIGTERM.

    A signal only leaves a note that is read between two steps, where the state is whole; then `RunStopped` is raised.
    A second Ctrl-C stops at once, without a checkpoint.
    """

    def __init__(self, folder, every_steps, start_step):
        super().__init__(start_step)
        self.folder = folder
        self.every_steps = every_steps
        self.due = self.asked = False
        self.handlers = {}

    def take_signals(self):
        """From here on Ctrl-C and SIGTERM ask instead of killing."""
        if threading.current_thread() is threading.main_thread():  # Python allows handlers only there
            for number in (signal.SIGINT, signal.SIGTERM):
                self.handlers[number] = signal.signal(number, self._ask)

    def release_signals(self):
        """Gives the signals back to whoever had them."""
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        self.handlers = {}

    def _ask(self, number, frame):
        self.asked = True
        self.release_signals()

    def on_train_batch_end(self, batch, logs=None):
        before = self.step
        super().on_train_batch_end(batch, logs)
        self.due = self.due or self.step // self.every_steps > before // self.every_steps

    def on_train_batch_begin(self, batch, logs=None):
        super().on_train_batch_begin(batch, logs)
        self._save_or_stop()

    def on_epoch_end(self, epoch, logs=None):
        self._save_or_stop()  # after the epoch's metrics were written: a run resumed here would not write them

    def _save_or_stop(self):
        if self.due or self.asked:
            model = self.model  # brings JAX's state up to date
            check_finite("gradient", float(model.optimizer.gradient_norm.numpy()), self.step)
            save_checkpoint(self.folder, model, self.step)
            self.due = False
        if self.asked:
            raise RunStopped(self.step)

"""What happens beside training: one progress bar for the whole run, checkpoints, a clean stop on Ctrl-C."""

import signal
import sys
import threading
import time

import keras
from tqdm.auto import tqdm

from keras_mixer.training.checkpoints import save_checkpoint


class ProgressBar(keras.callbacks.Callback):
    """One bar over all steps of a run, with the last epoch's loss and accuracies."""

    def __init__(self, total_steps, start_step):
        super().__init__()
        quiet = not sys.stderr.isatty()  # in a log file, a line now and then
        self.bar = tqdm(
            total=total_steps, initial=start_step, unit="step", desc="training", mininterval=10 if quiet else 0.2
        )

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update(1)

    def on_epoch_end(self, epoch, logs=None):
        names = {"loss": "loss", "accuracy": "train", "val_accuracy": "test"}
        values = {short: f"{logs[name]:.4f}" for name, short in names.items() if name in logs}
        self.bar.set_postfix(values, refresh=False)

    def close(self):
        """Ends the bar's line."""
        self.bar.close()


class EpochMetrics(keras.callbacks.Callback):
    """Adds step, learning rate and images a second to an epoch's logs and hands them on; goes before TensorBoard."""

    def __init__(self, batch_size, hand_on):
        super().__init__()
        self.batch_size = batch_size
        self.hand_on = hand_on

    def on_epoch_begin(self, epoch, logs=None):
        self.began = self.ended = time.perf_counter()
        self.batches = 0

    def on_train_batch_end(self, batch, logs=None):
        self.ended = time.perf_counter()  # validation comes after the last batch and does not count
        self.batches += 1

    def on_epoch_end(self, epoch, logs=None):
        optimizer = self.model.optimizer
        logs["step"] = int(optimizer.iterations.numpy())
        logs["learning_rate"] = float(optimizer.learning_rate)
        logs["images_per_second"] = self.batches * self.batch_size / (self.ended - self.began)
        self.hand_on({"epoch": epoch, **{name: float(value) for name, value in logs.items()}})


class RunStopped(KeyboardInterrupt):
    """A signal stopped a run; everything up to `step` is in a checkpoint."""

    def __init__(self, step):
        super().__init__(f"stopped at step {step}")
        self.step = step


class Checkpoints(keras.callbacks.Callback):
    """Writes a checkpoint every so many steps, and one more when asked to stop by Ctrl-C or SIGTERM.

    A signal only leaves a note that is read between two steps, where the state is whole; then `RunStopped` is raised.
    A second Ctrl-C stops at once, without a checkpoint.
    """

    def __init__(self, folder, every_steps, start_step):
        super().__init__()
        self.folder = folder
        self.every_steps = every_steps
        self.step = start_step
        self.asked = False
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
        self.step += 1
        if self.step % self.every_steps == 0:
            save_checkpoint(self.folder, self.model, self.step)  # self.model brings JAX's state up to date

    def on_train_batch_begin(self, batch, logs=None):
        self._stop_if_asked()

    def on_epoch_end(self, epoch, logs=None):
        self._stop_if_asked()  # here the epoch's metrics are written already

    def _stop_if_asked(self):
        if self.asked:
            save_checkpoint(self.folder, self.model, self.step)
            raise RunStopped(self.step)

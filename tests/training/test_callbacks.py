"""The user's callbacks: what they are called with and when, on both engines, and after a stop."""

import json

import keras
import pytest
from small_runs import SMALL, assert_same_weights

import keras_mixer
from keras_mixer.training.callbacks import BestEpoch
from keras_mixer.training.devices import Devices
from keras_mixer.training.run import Run, list_checkpoints, read_metrics, read_recipe

QUICK = SMALL | {"steps": 12, "global_batch_size": 256, "warmup_steps": 2, "checkpoint_every_steps": 5}  # 5 an epoch


class Recorder(keras.callbacks.Callback):
    def __init__(self, checkpoints, stop_after=None):
        super().__init__()
        self.checkpoints, self.stop_after, self.calls, self.logs = checkpoints, stop_after, [], []

    def on_train_begin(self, logs=None):
        self.calls.append(f"begin, {self.params['epochs']} epochs of {self.params['steps']}")

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(f"epoch {epoch}")

    def on_train_batch_end(self, batch, logs=None):
        assert logs["loss"] > 0
        self.calls.append("step")

    def on_test_end(self, logs=None):
        self.calls.append("test")

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(f"end of epoch {epoch}")
        self.logs.append(dict(logs))
        assert int(self.model.optimizer.iterations.numpy()) == logs["step"]
        assert logs["step"] not in list_checkpoints(self.checkpoints)
        if epoch == self.stop_after:
            raise KeyboardInterrupt

    def on_train_end(self, logs=None):
        self.calls.append("end")


def epoch(number, steps):
    return [f"epoch {number}", *["step"] * steps, "test", f"end of epoch {number}"]


def fit(workdir, *callbacks, **options):
    return keras_mixer.fit("digits", workdir=workdir, callbacks=callbacks, log=lambda line: None, **(QUICK | options))


@pytest.mark.backends
def test_callbacks_see_one_training_with_all_logs_and_again_from_the_resumed_epoch(tmp_path):
    recorder = Recorder(tmp_path / "checkpoints", stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, recorder)
    assert recorder.calls == ["begin, 3 epochs of 5", *epoch(0, 5), *epoch(1, 5)]
    assert read_metrics(tmp_path / "metrics.csv")["step"] == [5, 10]
    for workdir in (tmp_path, f"file://{tmp_path}"):  # processes that do not write leave the rows that are repeated
        run = Run(workdir, read_recipe(tmp_path), Devices("the second of two", 1, process=1))
        with run.opened():
            (step,) = list_checkpoints(run.checkpoints)
            assert BestEpoch(run, step).accuracies == [recorder.logs[0]["val_accuracy"]]
    recorder = Recorder(tmp_path / "checkpoints")
    result = fit(tmp_path, recorder)  # from step 5: the checkpoint of step 10 was not yet written
    assert recorder.calls == ["begin, 3 epochs of 5", *epoch(1, 5), *epoch(2, 2), "end"]
    columns = {"accuracy", "loss", "val_accuracy", "val_loss", "learning_rate", "gradient_norm", "images_per_second"}
    assert columns <= set(recorder.logs[0])
    for name in ("loss", "val_accuracy", "step"):
        assert [logs[name] for logs in recorder.logs] == result.history[name][1:]
    again = Recorder(tmp_path / "checkpoints")
    fit(tmp_path, again)  # finished
    assert again.calls == []


@pytest.mark.backends
@pytest.mark.parametrize("average", [{}, {"ema_momentum": 0.5}])
def test_early_stopping_ends_a_run_as_finished_and_can_restore_weights(tmp_path, average):
    never_better = keras.callbacks.EarlyStopping("step", mode="min", patience=1, restore_best_weights=True)
    result = fit(tmp_path, never_better, learning_rate=0.1, warmup_steps=1, **average)
    assert result.history["step"] == [5, 10]  # not the last two steps, which are another part
    first, second = result.history["val_loss"]
    assert first != pytest.approx(second, rel=1e-3)
    assert fit(tmp_path, learning_rate=0.1, warmup_steps=1, **average).metrics == result.metrics  # finished
    assert result.metrics == json.loads((tmp_path / "results.json").read_text())
    assert result.metrics["accuracy"] == pytest.approx(result.history["val_accuracy"][0])


@pytest.mark.backends
def test_a_run_that_is_killed_when_its_patience_has_ended_trains_no_further_epoch(tmp_path):
    options = {"patience": 1, "learning_rate": 1e-12, "head_bias": -2.0}  # which hides what is learned
    whole = fit(tmp_path, **options)
    assert whole.history["step"] == [5, 10]
    (tmp_path / "results.json").unlink()
    resumed = fit(tmp_path, **options)
    assert resumed.history == whole.history
    assert_same_weights(whole.model, resumed.model)


def test_what_is_no_callback_or_sets_the_learning_rate_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"keras.callbacks.Callback objects, got <class"):
        fit(tmp_path / "run", Recorder)
    for callback in (keras.callbacks.ReduceLROnPlateau(), keras.callbacks.LearningRateScheduler(lambda epoch: 1.0)):
        with pytest.raises(ValueError, match="sets the learning rate, which the schedule of the recipe does"):
            keras_mixer.fit("digits", workdir=tmp_path / "run", callbacks=callback)
    assert not (tmp_path / "run").exists()

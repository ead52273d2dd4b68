"""What a run survives bit for bit, and what the user's callbacks see of it; both engines."""

import dataclasses
import signal

import fsspec
import keras
import numpy as np
import pytest
from small_runs import assert_same_weights, fit, quiet, stopped_at

import keras_mixer
from keras_mixer.data.sources import load_source
from keras_mixer.training.devices import Devices, choose_devices
from keras_mixer.training.fit import start_model
from keras_mixer.training.run import Run, list_checkpoints, read_metrics, read_recipe
from keras_mixer.training.training_model import TrainingModel

QUICK = {"steps": 12, "global_batch_size": 256, "warmup_steps": 2, "checkpoint_every_steps": 5}  # 5 an epoch
NOISE = {"mixup_alpha": 0.2, "drop_path_rate": 0.2, "dropout_rate": 0.1, "ema_momentum": 0.9, "sam_rho": 0.1}


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
    return [f"epoch {number}", *["step"] * steps, f"end of epoch {number}"]


def save_teacher(path):
    keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(10)]).save(path)
    return path.read_bytes()


@pytest.mark.backends
def test_a_run_that_is_stopped_and_damaged_ends_with_the_same_weights_and_callbacks_see_one_training(tmp_path):
    teacher, said = tmp_path / "teacher.keras", []
    original, handler = save_teacher(teacher), signal.getsignal(signal.SIGINT)
    folder, options = tmp_path / "stopped", QUICK | NOISE | {"teacher": str(teacher)}
    whole = fit(tmp_path / "whole", **options)

    recorder = Recorder(folder / "checkpoints", stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        fit(folder, recorder, **options)
    assert recorder.calls == ["begin, 3 epochs of 5", *epoch(0, 5), *epoch(1, 5)]
    assert [row["step"] for row in read_metrics(folder / "metrics.csv")] == ["5", "10"]
    recipe = dataclasses.replace(read_recipe(folder).for_images(1437), teacher=None)
    trainee = TrainingModel.of(start_model(recipe, load_source("digits"), quiet), recipe, choose_devices("cpu"))
    fsspec.filesystem("memory").put(str(folder), "/stopped", recursive=True)
    for workdir in (folder, "memory://stopped"):  # processes that do not write leave the rows that are repeated
        run = Run(workdir, read_recipe(folder), Devices("the second of two", 1, process=1))
        with run.opened():
            run.restore(trainee)
            assert run.history["val_accuracy"] == [recorder.logs[0]["val_accuracy"]]

    with stopped_at(7):  # from step 5: the checkpoint of step 10 was not yet written
        fit(folder, **options)
    save_teacher(teacher)
    with pytest.raises(ValueError, match="has changed since this run started"):
        fit(folder, **options)
    teacher.write_bytes(original)
    checkpoints = list_checkpoints(folder / "checkpoints")
    assert list(checkpoints) == [5, 7]
    checkpoints[7].write_bytes(checkpoints[7].read_bytes()[:5000])

    recorder = Recorder(folder / "checkpoints")
    result = fit(folder, recorder, said=said, **options)
    assert any(line.startswith(f"Checkpoint {checkpoints[7]} is damaged") for line in said)
    assert "Resuming after step 5 of 12." in said
    assert_same_weights(whole.model, result.model)
    assert result.metrics["accuracy"] == whole.metrics["accuracy"]
    assert signal.getsignal(signal.SIGINT) is handler
    assert recorder.calls == ["begin, 3 epochs of 5", *epoch(1, 5), *epoch(2, 2), "end"]
    columns = {"accuracy", "loss", "val_accuracy", "val_loss", "learning_rate", "gradient_norm", "images_per_second"}
    assert columns <= set(recorder.logs[0])
    for name in ("loss", "val_accuracy", "step"):
        assert [logs[name] for logs in recorder.logs] == result.history[name][1:]
    again = Recorder(folder / "checkpoints")
    assert fit(folder, again, **options).metrics == result.metrics  # finished
    assert again.calls == []


@pytest.mark.backends
def test_early_stopping_ends_a_run_as_finished_and_can_restore_weights(tmp_path):
    never_better = keras.callbacks.EarlyStopping("step", mode="min", patience=1, restore_best_weights=True)
    options = QUICK | {"learning_rate": 0.1, "warmup_steps": 1, "ema_momentum": 0.5}
    result = fit(tmp_path, never_better, **options)
    assert result.history["step"] == [5, 10]  # not the last two steps, which are another part
    first, second = result.history["val_loss"]
    assert first != pytest.approx(second, rel=1e-3)
    assert fit(tmp_path, **options).metrics == result.metrics  # finished
    assert result.metrics["accuracy"] == pytest.approx(result.history["val_accuracy"][0])


@pytest.mark.backends
def test_the_best_epoch_is_kept_and_training_stops_when_it_stays_the_best_also_after_a_kill(tmp_path):
    said = []
    # After the first epochs the rate is so large that the accuracy falls.
    options = QUICK | {"steps": None, "epochs": 12, "optimizer": "sgd", "learning_rate": 1.5, "warmup_steps": 40}
    options |= {"clip_norm": None, "ema_momentum": 0.5, "drop_path_rate": 0.1, "devices": "2"}
    options |= {"keep": "best", "patience": 2, "checkpoint_every_steps": 1000}
    result = fit(tmp_path, said=said, **options)
    accuracies = result.history["val_accuracy"]
    best = int(np.argmax(accuracies))
    assert len(accuracies) == min(best + 3, 12)
    assert 5 * (best + 1) in list_checkpoints(tmp_path / "checkpoints")  # a run cannot resume before its best epoch
    assert (result.metrics["best_epoch"], result.metrics["last_accuracy"]) == (best, pytest.approx(accuracies[-1]))
    assert result.metrics["best_accuracy"] == pytest.approx(accuracies[best])
    assert result.metrics["accuracy"] == pytest.approx(accuracies[best], abs=1e-6)
    found = f"Best validation accuracy {accuracies[best]:.2%} after epoch {best + 1}"
    assert any(line.startswith(found) for line in said)
    assert any("chosen on the test images, so its accuracy is too high" in line for line in said)

    (tmp_path / "results.json").unlink()  # killed when its patience had ended: it trains no further epoch
    resumed = fit(tmp_path, **options)
    assert resumed.history == result.history
    assert_same_weights(result.model, resumed.model)


def test_what_is_no_callback_or_does_the_work_of_a_run_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"keras.callbacks.Callback objects, got <class"):
        fit(tmp_path / "run", Recorder)
    kinds = keras.callbacks
    for callback in (kinds.ReduceLROnPlateau(), kinds.SwapEMAWeights(), kinds.BackupAndRestore("b")):
        with pytest.raises(ValueError, match="does what a run does by itself; "):
            keras_mixer.fit("digits", workdir=tmp_path / "run", callbacks=callback)
    assert not (tmp_path / "run").exists()

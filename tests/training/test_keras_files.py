"""Files that Keras's callbacks write during `fit`: Keras loads them, and what it loads predicts and trains on."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from small_runs import SMALL

import keras_mixer

QUICK = SMALL | {"epochs": 2, "global_batch_size": 8, "warmup_steps": 1}
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), "uint8")
LABELS = np.arange(40) % 2
SIGMOID = {"loss": "sigmoid", "label_smoothing": 0.0}
KINDS = {
    "AdamW, two devices": {"clip_norm": 0.5, "devices": 2, "head_bias": -3.0},
    "SGD, sharpness-aware": {"optimizer": "sgd", "schedule": "staircase", "sam_rho": 0.1},
    "Muon": {"optimizer": "muon", "schedule": "linear"},
    "moving average": {"ema_momentum": 0.9, "learning_rate": 0.05, **SIGMOID},
    "microbatches, bfloat16": {"accumulation_steps": 2, "precision": "mixed_bfloat16"},
}


class StopAfterOneEpoch(keras.callbacks.Callback):
    """The learning rate is not yet zero then."""

    def on_epoch_end(self, epoch, logs=None):
        self.trained = self.model
        self.model.stop_training = True


def fit(folder, callbacks, **options):
    data = {"train": (IMAGES[:32], LABELS[:32]), "test": (IMAGES[32:], LABELS[32:]), "class_names": ("cat", "dog")}
    silent = {"log": lambda line: None}
    return keras_mixer.fit("digits", workdir=folder / "run", callbacks=callbacks, **data, **silent, **QUICK, **options)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Files that `ModelCheckpoint` wrote, by the kind of their training."""
    return tmp_path_factory.mktemp("written")


@pytest.mark.backends
@pytest.mark.parametrize("kind", KINDS)
def test_what_model_checkpoint_writes_is_what_was_validated_and_trains_on(kind, written, tmp_path):
    file, stop = written / f"{kind}.keras", StopAfterOneEpoch()
    best = keras.callbacks.ModelCheckpoint(file, monitor="val_loss", save_best_only=True)
    history = fit(tmp_path, [best, stop], **KINDS[kind]).history
    loaded, exact = keras.saving.load_model(file), "bfloat16" not in kind
    assert loaded.class_names == ("cat", "dog")
    x, y = IMAGES[32:].astype("float32"), np.eye(2, dtype="float32")[LABELS[32:]]
    assert loaded.predict_on_batch(x).shape == (8, 2)
    loss, accuracy = loaded.evaluate(x, y, verbose=0)
    assert loss == pytest.approx(history["val_loss"][0], rel=1e-4 if exact else 0.1)
    assert accuracy == pytest.approx(history["val_accuracy"][0])
    before = loaded.get_weights()
    for model in (loaded, stop.trained):
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    assert int(loaded.optimizer.iterations.numpy()) == 5
    for one, other in zip(loaded.get_weights(), stop.trained.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6 if exact else 1e-2)
    assert max(np.abs(one - old).max() for one, old in zip(loaded.get_weights(), before, strict=True)) > 1e-4


def test_the_package_alone_is_enough_to_load(written, tmp_path):
    if not any(written.iterdir()):  # the test above has not run
        fit(tmp_path, keras.callbacks.ModelCheckpoint(written / "alone.keras"))
    files = sorted(written.glob("*.keras"))
    code = "import keras, sys, keras_mixer\nfor file in sys.argv[1:]: print(keras.saving.load_model(file).class_names)"
    out = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["('cat', 'dog')"] * len(files)


@pytest.mark.backends
def test_a_student_weights_files_and_backups_load_without_the_teacher(tmp_path):
    image = keras.Input((16, 16, 3))
    teacher = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image)))
    teacher.save(tmp_path / "teacher.keras")
    model_file, weights_file, stop = tmp_path / "last.keras", tmp_path / "last.weights.h5", StopAfterOneEpoch()
    of_model = keras.callbacks.ModelCheckpoint(model_file)
    of_weights = keras.callbacks.ModelCheckpoint(weights_file, save_weights_only=True)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup", delete_checkpoint=False)
    result = fit(tmp_path, [of_model, of_weights, backup, stop], teacher=str(tmp_path / "teacher.keras"))
    trained = [np.array(weight) for weight in result.model.get_weights()]
    written = [weights_file, *(tmp_path / "backup").rglob("*.weights.h5")]
    assert len(written) == 2
    for path in written:
        stop.trained.set_weights([np.zeros_like(weight) for weight in trained])
        stop.trained.load_weights(path)
        for one, other in zip(stop.trained.get_weights(), trained, strict=True):
            np.testing.assert_array_equal(one, other)
    history, loaded = result.history, keras.saving.load_model(model_file)
    assert len(loaded.weights) == len(result.model.weights)
    x, y = IMAGES[32:].astype("float32"), np.eye(2, dtype="float32")[LABELS[32:]]
    assert loaded.evaluate(x, y, verbose=0)[0] == pytest.approx(history["val_loss"][-1], rel=1e-4)
    logs = loaded.fit(x, y, batch_size=8, verbose=0).history
    assert logs["loss"][0] == pytest.approx(history["val_loss"][-1], rel=0.5)

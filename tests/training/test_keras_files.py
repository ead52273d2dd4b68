"""Files that Keras's callbacks write during `fit`: Keras loads them, and what it loads predicts and trains on."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from small_runs import SMALL, quiet

import keras_mixer

QUICK = SMALL | {"epochs": 2, "global_batch_size": 8, "warmup_steps": 1}
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), "uint8")
LABELS = np.arange(40) % 2
X, Y = IMAGES[32:].astype("float32"), np.eye(2, dtype="float32")[LABELS[32:]]
KINDS = {
    "AdamW, moving average, two devices": {
        **{"devices": 2, "clip_norm": 0.5, "ema_momentum": 0.9},
        **{"loss": "sigmoid", "label_smoothing": 0.0, "head_bias": -3.0},
    },
    "Muon, bfloat16, microbatches, sharpness-aware": {
        **{"optimizer": "muon", "schedule": "linear", "precision": "mixed_bfloat16"},
        **{"accumulation_steps": 2, "sam_rho": 0.1},
    },
    "SGD, student": {"optimizer": "sgd", "schedule": "staircase"},
}


class StopAfterOneEpoch(keras.callbacks.Callback):
    """The learning rate is not yet zero then."""

    def on_epoch_end(self, epoch, logs=None):
        self.trained = self.model
        self.model.stop_training = True


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Folder with the files of each kind of training; the trained model and its history by kind."""
    folder, trained = tmp_path_factory.mktemp("written"), {}
    image = keras.Input((16, 16, 3))
    keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image))).save(folder / "teacher.keras")
    for kind, options in KINDS.items():
        stop = StopAfterOneEpoch()
        callbacks = [keras.callbacks.ModelCheckpoint(folder / f"{kind}.keras", save_best_only=True), stop]
        if "student" in kind:
            options = options | {"teacher": str(folder / "teacher.keras")}
            weights = keras.callbacks.ModelCheckpoint(folder / "last.weights.h5", save_weights_only=True)
            callbacks = [weights, *callbacks]
        data = {"train": (IMAGES[:32], LABELS[:32]), "test": (IMAGES[32:], LABELS[32:]), "class_names": ("cat", "dog")}
        options = QUICK | {"workdir": folder / f"run {kind}", "callbacks": callbacks, "log": quiet} | data | options
        history = keras_mixer.fit("digits", **options).history
        trained[kind] = stop.trained, history
    return folder, trained


@pytest.mark.backends
@pytest.mark.parametrize("kind", KINDS)
def test_what_model_checkpoint_writes_is_what_was_validated_and_trains_on(kind, written):
    folder, (trained, history) = written[0], written[1][kind]
    loaded, exact = keras.saving.load_model(folder / f"{kind}.keras"), "bfloat16" not in kind
    assert loaded.class_names == ("cat", "dog")
    loss, accuracy = loaded.evaluate(X, Y, verbose=0)
    assert loss == pytest.approx(history["val_loss"][0], rel=1e-4 if exact else 0.1)
    assert accuracy == pytest.approx(history["val_accuracy"][0])
    before = loaded.get_weights()
    if "student" in kind:  # without the teacher, which no file has
        trained.set_weights([np.zeros_like(weight) for weight in before])
        trained.load_weights(folder / "last.weights.h5")
        for one, other in zip(trained.get_weights(), before, strict=True):
            np.testing.assert_array_equal(one, other)
        trained.teacher = None
        trained.make_train_function(force=True)
    for model in (loaded, trained):
        model.fit(X, Y, batch_size=8, shuffle=False, verbose=0)
    assert int(loaded.optimizer.iterations.numpy()) == 5
    for one, other in zip(loaded.get_weights(), trained.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6 if exact else 1e-2)
    assert max(np.abs(one - old).max() for one, old in zip(loaded.get_weights(), before, strict=True)) > 1e-4


def test_the_package_alone_is_enough_to_load(written):
    files = [written[0] / f"{kind}.keras" for kind in KINDS]
    code = "import keras, sys, keras_mixer\nfor file in sys.argv[1:]: print(keras.saving.load_model(file).class_names)"
    out = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True).stdout
    assert out.splitlines() == ["('cat', 'dog')"] * len(files)

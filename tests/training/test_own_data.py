"""Training on the caller's data: arrays and records train alike, and the run resumes."""

import grain
import numpy as np
import pytest
import tensorflow as tf
from small_runs import assert_same_weights, fit, stopped_at

from keras_mixer import cli

RNG = np.random.default_rng(0)
LABELS = np.arange(36) % 2
IMAGES = (RNG.integers(0, 80, (36, 12, 12, 3)) + 150 * np.eye(3, dtype=int)[LABELS][:, None, None]).astype(np.uint8)
TRAIN, TEST = (IMAGES[:24], LABELS[:24]), (IMAGES[24:], LABELS[24:])  # 3 steps an epoch
OWN = {"train": TRAIN, "test": TEST, "epochs": 3, "global_batch_size": 8, "warmup_steps": 2}


@pytest.mark.backends
def test_arrays_and_records_train_alike_and_resume_to_the_very_same_weights(tmp_path, capsys):
    options = OWN | {"class_names": ("red", "green"), "class_weights": "balanced", "learning_rate": 0.01}
    whole = fit(tmp_path / "arrays", **options)
    assert (whole.model.class_names, whole.metrics["test_images"]) == (("red", "green"), 12)
    records = options | {"train": grain.MapDataset.source(list(zip(*TRAIN, strict=True)))}
    records["test"] = tf.data.Dataset.from_tensor_slices(TEST)
    with stopped_at(5):
        fit(tmp_path / "stopped", **records)
    resumed = fit(tmp_path / "stopped", **records)
    assert_same_weights(whole.model, resumed.model)
    assert fit(tmp_path / "arrays", **options).metrics == whole.metrics  # finished: only loaded
    with pytest.raises(ValueError, match=r"data: 'own data \(train: 24 images .* there, 'own data \(train: 23 images"):
        fit(tmp_path / "arrays", **(options | {"train": tuple(part[1:] for part in TRAIN)}))
    assert cli.main(["evaluate", str(tmp_path / "arrays")]) == 2
    assert "passed to keras_mixer.fit" in capsys.readouterr().err


def test_contradictions_are_refused_before_anything_is_written(tmp_path):
    for options, words in (
        ({"train_split": "train"}, "Expected train= or train_split=, got both"),
        ({"train": None}, "test can be used only with train="),
        ({"class_names": ("only",)}, "Expected labels from 0 to 0 in train"),
    ):
        with pytest.raises(ValueError, match=words):
            fit(tmp_path / "run", **(OWN | options))
    assert not (tmp_path / "run").exists()

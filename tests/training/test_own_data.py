"""Training on the caller's data: the same run as on the same images in a folder, and it resumes."""

import dataclasses

import grain
import numpy as np
import pytest
import tensorflow as tf
from small_runs import SMALL, assert_same_weights, stopped_at

import keras_mixer
from keras_mixer import cli
from keras_mixer.training.inputs import own_data

QUICK = SMALL | {"epochs": 3, "global_batch_size": 8, "warmup_steps": 2, "checkpoint_every_steps": 4}
RNG = np.random.default_rng(0)
LABELS = np.arange(36) % 2
IMAGES = (RNG.integers(0, 80, (36, 12, 12, 3)) + 150 * np.eye(3, dtype=int)[LABELS][:, None, None]).astype(np.uint8)
TRAIN, TEST = (IMAGES[:24], LABELS[:24]), (IMAGES[24:], LABELS[24:])  # 3 steps an epoch


def fit(workdir, train=TRAIN, test=TEST, said=None, **options):
    log = ([] if said is None else said).append
    return keras_mixer.fit("digits", workdir=workdir, log=log, train=train, test=test, **(QUICK | options))


def dataset(data):
    return tf.data.Dataset.from_tensor_slices(data)


@pytest.mark.backends
def test_arrays_and_records_train_alike_and_resume_to_the_very_same_weights(tmp_path, capsys):
    options = {"class_names": ("red", "green"), "class_weights": "balanced", "learning_rate": 0.01}
    said = []
    whole = fit(tmp_path / "arrays", said=said, **options)
    assert "24 training and 12 test images of own data, 2 classes" in said[1]
    assert whole.model.class_names == ("red", "green")
    assert whole.metrics["test_images"] == 12
    records = {"train": grain.MapDataset.source(list(zip(*TRAIN, strict=True))), "test": dataset(TEST)}
    with stopped_at(5):
        fit(tmp_path / "stopped", **records, **options)
    resumed = fit(tmp_path / "stopped", **records, **options)
    assert_same_weights(whole.model, resumed.model)
    assert fit(tmp_path / "arrays", **options).metrics == whole.metrics  # finished: only loaded
    with pytest.raises(ValueError, match=r"data: 'own data \(train: 24 images .* there, 'own data \(train: 23 images"):
        fit(tmp_path / "arrays", train=tuple(part[1:] for part in TRAIN), **options)
    assert cli.main(["evaluate", str(tmp_path / "arrays")]) == 2
    assert "passed to keras_mixer.fit" in capsys.readouterr().err


def test_a_dataset_that_reshuffles_itself_gives_each_image_its_own_label(tmp_path):
    result = fit(
        tmp_path / "run", dataset(TRAIN).shuffle(24), classes=2, epochs=12, learning_rate=0.01, mixup_alpha=0.0
    )
    assert result.history["accuracy"][-1] == result.metrics["accuracy"] == 1.0


def test_the_recipe_holds_out_and_splits_own_data():
    recipe = keras_mixer.RECIPES["digits"]
    _, held_out = own_data(dataclasses.replace(recipe, holdout=0.25), {}, TRAIN, TEST)
    assert (held_out.train.size, held_out.test.size) == (18, 6)
    _, split = own_data(dataclasses.replace(recipe, test_fraction=0.25), {}, (IMAGES, LABELS))
    assert (split.train.size, split.test.size) == (27, 9)
    with pytest.raises(ValueError, match="holdout and data_shards need a fixed order"):
        own_data(dataclasses.replace(recipe, data_shards=2), {}, dataset(TRAIN).shuffle(24, seed=1), TEST)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "digits"}, "Expected train= or data=, got both"),
        ({"train_split": "train"}, "Expected train= or train_split=, got both"),
        ({"train": None}, "test can be used only with train="),
        ({"train": None, "test": None, "classes": 2}, "classes can be used only with train="),
        ({"class_names": ("only",)}, "two or more classes"),
    ],
)
def test_contradictions_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()

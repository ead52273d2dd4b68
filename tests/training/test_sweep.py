import pytest

import keras_mixer
from keras_mixer.data.sources import load_source
from keras_mixer.training.sweep import sweep

QUICK = {"epochs": 1, "global_batch_size": 128, "warmup_steps": 1, "num_blocks": 1, "hidden_dim": 16}
QUICK |= {"tokens_mlp_dim": 8, "channels_mlp_dim": 32, "randaugment_num_ops": 0, "xla_on_cpu": False}


def test_a_sweep_compares_on_held_out_images_and_trains_on_all_with_the_best(tmp_path):
    said = []
    options = QUICK | {"optimizer": "sgd", "clip_norm": None, "log": said.append}
    result = sweep("digits", [1e9, 1e-6, 0.3], workdir=tmp_path, holdout=0.2, **options)
    train = load_source("digits").train.size
    assert result.accuracies[1e9] is None
    assert result.best == 0.3
    assert result.accuracies[0.3] > result.accuracies[1e-6]
    assert result.final.metrics["test_images"] == 360
    assert sum(f"{train - int(train * 0.2):,} training and {int(train * 0.2)} held-out" in line for line in said) == 3
    assert sum(f"{train:,} training and 360 test" in line for line in said) == 1
    assert {item.name for item in tmp_path.iterdir()} == {"lr_1e+09", "lr_1e-06", "lr_0.3", "final"}
    said.clear()
    again = sweep("digits", [1e-6, 0.3], workdir=tmp_path, holdout=0.2, **options)
    assert again.best == 0.3
    assert all("already finished" in line for line in said if line.startswith("Run"))


def test_a_sweep_needs_rates_and_images_to_hold_out(tmp_path):
    for rates in ([], [0.1, 0.0], [-1], [float("nan")], ["a", 0.1]):
        with pytest.raises(ValueError, match="learning_rates must be"):
            sweep("digits", rates, workdir=tmp_path)
    for holdout in (0, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"holdout must be .*, got "):
            sweep("digits", [0.1], workdir=tmp_path, holdout=holdout)
    assert not list(tmp_path.iterdir())
    assert "sweep" not in dir(keras_mixer)  # the command is the public way

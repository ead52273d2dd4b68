"""What loading adapted reaches whoever loads: as warnings of the logger, or through a callback."""

import logging
import subprocess
import sys

import numpy as np
import pytest
from weight_files import timm

import keras_mixer
from keras_mixer.data.sources import load_source
from keras_mixer.training.fit import start_model
from keras_mixer.training.recipes import resolve

SIZES = (4, 2, 32, 16, 64)
HEAD = "The file has 10 classes, the model 4 classes: the head starts at zero."


@pytest.fixture
def official(tiny_mixer, tmp_path):
    return keras_mixer.save_official(tiny_mixer(), tmp_path / "official.npz")


def test_what_is_adapted_is_a_warning_of_the_logger(official, caplog, capsys):
    model = keras_mixer.Mixer(*SIZES, input_shape=(16, 16, 1), classes=4)
    keras_mixer.load_weights(model, official)
    lines = [HEAD, "The stem is adapted from 3 to 1 channels."]
    assert caplog.record_tuples == [("keras_mixer", logging.WARNING, line) for line in lines]
    caplog.clear()
    keras_mixer.Mixer(*SIZES, input_shape=(32, 16, 3), classes=10, weights=official)
    assert "widened block by block (the paper's rule): from (4, 4) to (8, 4) tokens" in caplog.text
    assert capsys.readouterr().out == ""


def test_timms_scaling_of_pixels_is_a_warning_too(tiny_mixer, tmp_path, caplog):
    np.savez(tmp_path / "timm.npz", **timm({weight.path: weight.numpy() for weight in tiny_mixer().weights}, 2))
    keras_mixer.load_weights(tiny_mixer(exact_gelu=True), tmp_path / "timm.npz")
    assert "exact (erf) GELU" in caplog.text
    assert "pixel_range" in caplog.text


def test_nothing_is_said_where_nothing_is_adapted(official, tiny_mixer, caplog):
    keras_mixer.load_weights(tiny_mixer(), official)
    assert not caplog.records


def test_a_callback_takes_the_place_of_the_logger(official, caplog):
    said = []
    keras_mixer.load_weights(keras_mixer.Mixer(*SIZES, input_shape=(16, 16, 3), classes=4), official, log=said.append)
    assert said == [HEAD]
    assert not caplog.records


@pytest.mark.parametrize("method", ["block_diagonal", "bilinear"])
def test_a_run_says_it_through_its_own_callback(official, caplog, method):
    sizes = dict(
        zip(("patch_size", "num_blocks", "hidden_dim", "tokens_mlp_dim", "channels_mlp_dim"), SIZES, strict=True)
    )
    options = {"weights": str(official), "image_size": (32, 16), "resolution_method": method}
    said = []
    model = start_model(resolve("digits", **sizes, **options), load_source("digits"), said.append)
    assert model.get_layer("mixer_block_0").tokens_mlp_dim == (32 if method == "block_diagonal" else 16)
    assert "from (4, 4) to (8, 4) tokens" in said[0]
    assert not caplog.records


def test_a_user_who_set_up_no_logging_sees_it(official):
    options = {"input_shape": (16, 16, 3), "classes": 4, "weights": str(official)}
    code = f"import keras_mixer; keras_mixer.Mixer(*{SIZES}, **{options})"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert HEAD in process.stderr
    assert process.stdout == ""

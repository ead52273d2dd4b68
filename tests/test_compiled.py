"""What compiled functions kept is made again when a layer starts to compute something else."""

import keras
import numpy as np
import pytest
from weight_files import timm

import keras_mixer
from keras_mixer.mixer_model import blocks_of

pytestmark = pytest.mark.backends


@pytest.fixture
def timm_file(tiny_mixer, tmp_path):
    path = tmp_path / "timm.npz"
    np.savez(path, **timm({weight.path: weight.numpy() for weight in tiny_mixer().weights}, 2))
    return path


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)


def load_timm(model, path):
    return keras_mixer.load_weights(model, path, log=lambda line: None)


def test_timm_weights_loaded_after_the_first_predict_are_computed_like_timm(tiny_mixer, timm_file, pixels):
    model, fresh = tiny_mixer(), tiny_mixer()
    around = keras.Sequential([keras.Input((16, 16, 3)), model])
    inside = keras_mixer.feature_extractor(model, ["block_1/token_mixing"])
    for user in (model, around, inside):
        user.predict(pixels, verbose=0)
    expected = load_timm(fresh, timm_file).predict(pixels, verbose=0)
    load_timm(model, timm_file)
    np.testing.assert_allclose(model.predict(pixels, verbose=0), expected, atol=1e-6)
    np.testing.assert_allclose(around.predict(pixels, verbose=0), expected, atol=1e-6)
    features = keras_mixer.feature_extractor(fresh, ["block_1/token_mixing"]).predict(pixels, verbose=0)
    np.testing.assert_allclose(inside.predict(pixels, verbose=0)["block_1/token_mixing"], *features.values(), atol=1e-6)


def test_a_keras_file_of_timms_weights_is_computed_like_timm(tiny_mixer, timm_file, pixels, tmp_path):
    source = load_timm(tiny_mixer(), timm_file)
    source.save(tmp_path / "model.keras")
    model, said = tiny_mixer(), []
    keras_mixer.load_weights(model, tmp_path / "model.keras", log=said.append)
    np.testing.assert_allclose(model.predict(pixels, verbose=0), source.predict(pixels, verbose=0), atol=1e-6)
    keras_mixer.load_weights(model, tmp_path / "model.keras", log=said.append)  # the second time nothing changes
    assert said == ["The exact (erf) GELU is set, as in the model of the file."]


def test_evaluate_and_fit_follow_too(tiny_mixer, timm_file, pixels):
    labels = np.arange(4)

    def compiled():
        model = tiny_mixer()
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        return model

    model, fresh = compiled(), load_timm(compiled(), timm_file)
    model.evaluate(pixels, labels, verbose=0)
    model.fit(pixels, labels, verbose=0)
    load_timm(model, timm_file)
    for user in (model, fresh):
        user.loss_before = user.evaluate(pixels, labels, verbose=0)
        user.fit(pixels, labels, verbose=0, shuffle=False)
    assert model.loss_before == pytest.approx(fresh.loss_before, rel=1e-6)
    for mine, theirs in zip(model.get_weights(), fresh.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-6)


def test_rematerialize_holds_from_the_next_step_on(tiny_mixer, pixels, monkeypatch):
    model = tiny_mixer()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(pixels, np.arange(4), verbose=0)
    used, remat = [], keras.remat
    monkeypatch.setattr(keras, "remat", lambda function: used.append(function) or remat(function))
    for block in blocks_of(model):
        block.rematerialize = True
    model.fit(pixels, np.arange(4), verbose=0)
    assert len(used) >= 4  # both halves of both blocks
    model.fit(pixels, np.arange(4), verbose=0)
    traced = len(used)
    blocks_of(model)[0].rematerialize = True  # no change: nothing is compiled again
    model.fit(pixels, np.arange(4), verbose=0)
    assert len(used) == traced
    for block in blocks_of(model):
        block.rematerialize = "tokens"
    used.clear()
    model.fit(pixels, np.arange(4), verbose=0)
    assert len(used) == traced / 2

import logging

import keras
import ml_dtypes
import numpy as np
import pytest
import reference
import safetensors.numpy
from weight_files import linen, pre_linen, timm

import keras_mixer
from keras_mixer.data.sources import load_source
from keras_mixer.layers import MixerBlock
from keras_mixer.training.fit import start_model
from keras_mixer.training.recipes import resolve


def weights_of(model):
    return {weight.path: weight.numpy() for weight in model.weights}


def logits(model, images):
    return keras.ops.convert_to_numpy(model(images))


@pytest.fixture
def source(tiny_mixer):
    return tiny_mixer(classifier_activation=None)


@pytest.fixture
def official(source, tmp_path):
    return keras_mixer.save_official(source, tmp_path / "official.npz")


SIZES = {"patch_size": 4, "num_blocks": 2, "hidden_dim": 32, "tokens_mlp_dim": 16, "channels_mlp_dim": 64}


def empty(**options):
    """A model without weights that agrees with the source but for the options given."""
    defaults = {"input_shape": (16, 16, 3), "classes": 10, "classifier_activation": None}
    return keras_mixer.Mixer(**SIZES | defaults | options)


def assert_same_weights(one, other):
    for mine, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("layout", ["linen", "pre-linen", "pre-linen counted on"])
@pytest.mark.backends
def test_official_files_give_the_logits_of_the_oracle(source, rng, tmp_path, layout):
    weights = weights_of(source)
    arrays = linen(weights, 2) if layout == "linen" else pre_linen(weights, 2, first_norm=2 * layout.endswith("on"))
    np.savez(tmp_path / "official.npz", **arrays)
    model = keras_mixer.load_weights(empty(), tmp_path / "official.npz")
    pixels = rng.integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    expected = reference.mixer(pixels, {name: array.astype(np.float64) for name, array in weights.items()})
    assert np.abs(logits(model, pixels) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_reading_and_writing_official_files_is_exact_to_the_bit(source, tmp_path):
    arrays = linen(weights_of(source), 2)
    np.savez(tmp_path / "one.npz", **arrays)
    model = keras_mixer.load_weights(empty(), tmp_path / "one.npz")
    keras_mixer.save_official(model, tmp_path / "two.npz")
    with np.load(tmp_path / "two.npz") as file:
        assert set(file.files) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(file[name], array)
            assert file[name].dtype == np.float32


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.backends
def test_timm_files_compute_what_timm_computes(source, rng, tmp_path, suffix):
    path = tmp_path / f"timm{suffix}"
    arrays = timm(weights_of(source), 2)
    np.savez(path, **arrays) if suffix == ".npz" else safetensors.numpy.save_file(arrays, path)
    said = []
    model = keras_mixer.load_weights(empty(exact_gelu=True), path, log=said.append)
    assert_same_weights(model, source)
    assert "erf" in said[0]
    assert "pixel_range" in said[0]
    pixels = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    weights = {name: array.astype(np.float64) for name, array in weights_of(source).items()}
    expected = reference.mixer(pixels, weights, reference.exact_gelu)
    assert np.abs(logits(model, pixels) - expected).max() <= 1e-5 * np.abs(expected).max()
    model.save(tmp_path / "copy.keras")
    copy = keras.saving.load_model(tmp_path / "copy.keras")
    np.testing.assert_array_equal(logits(copy, pixels), logits(model, pixels))
    assert all(block.exact_gelu for block in copy.layers if isinstance(block, MixerBlock))


def test_two_arrays_for_one_weight_are_refused(source, tmp_path):
    arrays, name = pre_linen(weights_of(source), 2), "Mixer/encoderblock_0/token_mixing_phase_0/bias1"
    arrays[name.replace("phase_0", "phase_1")] = arrays[name]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ValueError, match=r"a\.npz.*both 'mixer_block_0/token_mixing/dense_0/bias'"):
        keras_mixer.load_weights(empty(), tmp_path / "a.npz")


def test_half_precision_files_load(source, tmp_path):
    for dtype in (np.float16, ml_dtypes.bfloat16, np.float64):
        path = tmp_path / f"{np.dtype(dtype).name}.npz"
        np.savez(path, **{name: array.astype(dtype) for name, array in linen(weights_of(source), 2).items()})
        model = keras_mixer.load_weights(empty(), path)
        for mine, theirs in zip(model.get_weights(), source.get_weights(), strict=True):
            np.testing.assert_array_equal(mine, theirs.astype(dtype).astype(np.float32))


@pytest.mark.backends
def test_own_files_load_also_those_that_keras_saves_while_training(source, tmp_path):
    path, loss = tmp_path / "own.weights.h5", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    source.compile("adam", loss, metrics=["accuracy"], run_eagerly=True)
    save = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    source.fit(np.zeros((4, 16, 16, 3), "uint8"), np.arange(4), callbacks=[save], verbose=0)
    source.save(tmp_path / "own.keras")
    for file in (path, tmp_path / "own.keras"):
        for model in (keras_mixer.load_weights(empty(), file), keras_mixer.load_weights(source, file)):
            assert_same_weights(model, source)
        assert_same_weights(empty(weights=file), source)
    said = []
    keras_mixer.load_weights(empty(classes=4), path, log=said.append)
    assert said == ["The file has 10 classes, the model 4 classes: the head starts at zero."]
    with pytest.raises(ValueError, match="head does not fit"):
        keras_mixer.load_weights(empty(classes=4), path, head="load")
    wide = keras_mixer.load_weights(empty(input_shape=(32, 16, 3)), path, method="bilinear", log=said.append)
    assert wide.get_layer("mixer_block_0").tokens_mlp_dim == 16
    assert empty(input_shape=(32, 16, 3), weights=path).get_layer("mixer_block_0").tokens_mlp_dim == 32
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match=r"other\.weights\.h5: The arrays are not those of a known Mixer file"):
        keras_mixer.load_weights(empty(), tmp_path / "other.weights.h5")


@pytest.mark.backends
def test_weights_of_another_form_are_refused(source, official, tmp_path, rng):
    """GELU form and pixel range belong to a model; a file for another form would give wrong answers."""
    np.savez(tmp_path / "timm.npz", **timm(weights_of(source), 2))
    pixels = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    timms = empty(weights=tmp_path / "timm.npz")
    expected = logits(timms, pixels)
    with pytest.raises(ValueError, match=r"official.npz belongs to .* exact_gelu=False, but this one has exact_"):
        keras_mixer.load_weights(timms, official)
    np.testing.assert_array_equal(logits(timms, pixels), expected)
    for wrong in ({"exact_gelu": True}, {"pixel_range": (0, 1)}):
        with pytest.raises(ValueError, match=f"but this one has {next(iter(wrong))}"):
            empty(**wrong, weights=official)
        with pytest.raises(ValueError, match="The official layout is for tanh GELU and pixels in"):
            keras_mixer.save_official(empty(**wrong), tmp_path / "a.npz")
    assert not (tmp_path / "a.npz").exists()


@pytest.mark.backends
def test_another_number_of_classes_starts_the_head_at_zero_and_says_so(source, official):
    said, model = [], empty(classes=4)
    model.get_layer("head").bias.assign(np.ones(4))
    keras_mixer.load_weights(model, official, log=said.append)
    assert said == ["The file has 10 classes, the model 4 classes: the head starts at zero."]
    assert not any(weight.any() for weight in model.get_layer("head").get_weights())
    np.testing.assert_array_equal(model.get_layer("stem").get_weights()[0], source.get_layer("stem").get_weights()[0])
    with pytest.raises(ValueError, match="head does not fit: 10 classes in the file"):
        keras_mixer.load_weights(empty(classes=4), official, head="load")


def test_what_is_adapted_is_a_warning_of_the_logger_or_a_call(official, caplog, capsys):
    keras_mixer.load_weights(empty(), official)
    assert not caplog.records
    keras_mixer.load_weights(empty(input_shape=(16, 16, 1), classes=4), official)
    head = "The file has 10 classes, the model 4 classes: the head starts at zero."
    lines = [head, "The stem is adapted from 3 to 1 channels."]
    assert caplog.record_tuples == [("keras_mixer", logging.WARNING, line) for line in lines]
    caplog.clear()
    empty(input_shape=(32, 16, 3), weights=official)
    assert "widened block by block (the paper's rule): from (4, 4) to (8, 4) tokens" in caplog.text
    assert capsys.readouterr().out == ""
    caplog.clear()
    for method, hidden in {"block_diagonal": 32, "bilinear": 16}.items():
        said = []
        recipe = resolve("digits", **SIZES, weights=str(official), image_size=(32, 16), resolution_method=method)
        model = start_model(recipe, load_source("digits"), said.append)
        assert model.get_layer("mixer_block_0").tokens_mlp_dim == hidden
        assert "from (4, 4) to (8, 4) tokens" in said[0]
    assert not caplog.records


def test_a_model_without_head_takes_the_rest(source, official, tmp_path, rng):
    model = keras_mixer.load_weights(empty(include_top=False, pooling="avg"), official)
    pixels = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    kernel, bias = source.get_layer("head").get_weights()
    np.testing.assert_allclose(logits(model, pixels) @ kernel + bias, logits(source, pixels), atol=1e-4)
    keras_mixer.save_official(model, tmp_path / "headless.npz")
    said = []
    again = keras_mixer.load_weights(empty(), tmp_path / "headless.npz", log=said.append)
    assert "no head" in said[0]
    assert not again.get_layer("head").get_weights()[0].any()


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_other_channel_counts_adapt_the_stem(source, official, rng, channels):
    model = keras_mixer.load_weights(empty(input_shape=(16, 16, channels)), official, log=lambda line: None)
    if channels == 1:
        grey = rng.integers(0, 256, (2, 16, 16, 1), dtype=np.uint8)
        expected = logits(source, np.repeat(grey, 3, axis=-1))
        np.testing.assert_allclose(logits(model, grey), expected, atol=1e-4)
    kernel, old = model.get_layer("stem").get_weights()[0], source.get_layer("stem").get_weights()[0]
    if channels == 6:
        np.testing.assert_allclose(kernel, np.concatenate([old, old], axis=2) / 2, rtol=1e-6)
    if channels == 2:
        np.testing.assert_allclose(kernel, old[:, :, :2] * 1.5, rtol=1e-6)


def test_a_file_of_another_size_widens_the_model_that_is_built_for_it(source, official, rng):
    model = empty(input_shape=(32, 16, 3), weights=official)
    assert model.get_layer("mixer_block_0").tokens_mlp_dim == 32
    pixels = rng.integers(0, 256, (2, 32, 16, 3), dtype=np.uint8)
    expected = (logits(source, pixels[:, :16]) + logits(source, pixels[:, 16:])) / 2
    np.testing.assert_allclose(logits(model, pixels), expected, atol=1e-5)


def test_a_size_without_whole_tiles_needs_a_method(official):
    model, same, said = empty(input_shape=(20, 16, 3)), empty(input_shape=(20, 16, 3)), []
    same.set_weights(model.get_weights())
    with pytest.raises(ValueError, match=r"heights of 16, 32, 48.*widths of 16, 32, 48.*method=\"bilinear\""):
        keras_mixer.load_weights(model, official)
    assert_same_weights(model, same)
    keras_mixer.load_weights(model, official, method="bilinear", log=said.append)
    assert "not from the paper" in said[0]
    with pytest.raises(ValueError, match="tokens_mlp_dim=64 instead of 16"):
        keras_mixer.load_weights(empty(input_shape=(32, 32, 3)), official)


def test_tokens_in_no_square_need_a_model_of_their_image(tiny_mixer, tmp_path):
    source = tiny_mixer(input_shape=(16, 24, 3), classifier_activation=None)
    keras_mixer.save_official(source, tmp_path / "a.npz")
    assert_same_weights(keras_mixer.load_weights(empty(input_shape=(16, 24, 3)), tmp_path / "a.npz"), source)
    wide = {"input_shape": (16, 48, 3), "tokens_mlp_dim": 32}
    with pytest.raises(ValueError, match=r"24 tokens of .* are not a square grid"):
        keras_mixer.load_weights(empty(**wide), tmp_path / "a.npz")


def test_useless_arguments_are_refused(source, official, tmp_path):
    written = official.read_bytes()
    with pytest.raises(ValueError, match="not overwritten"):
        keras_mixer.save_official(empty(), official)
    assert official.read_bytes() == written
    with pytest.raises(ValueError, match=r"ends in \.npz"):
        keras_mixer.save_official(source, tmp_path / "a.ckpt")
    with pytest.raises(FileNotFoundError, match="no weights file"):
        keras_mixer.load_weights(source, tmp_path / "missing.npz")
    with pytest.raises(ValueError, match=r"not a known source: .*imagenet21k.*\.weights\.h5"):
        keras_mixer.load_weights(source, "imagenet99k")
    with pytest.raises(ValueError, match="head must be"):
        keras_mixer.load_weights(source, "imagenet1k", head="zero")
    with pytest.raises(ValueError, match="method must be"):
        keras_mixer.load_weights(source, "imagenet1k", method="bicubic")


@pytest.mark.parametrize(
    ("prefix", "names"),
    [
        *(("module.", timm), ("_orig_mod.", timm), ("model.", timm), ("module._orig_mod.", timm)),
        *(("params/", linen), ("opt/target/", linen), ("opt/target/", pre_linen)),
    ],
)
def test_prefixes_of_training_checkpoints_are_removed_and_said(source, tmp_path, prefix, names):
    arrays = {prefix + name: array for name, array in names(weights_of(source), 2).items()}
    np.savez(tmp_path / "a.npz", **arrays, **{"opt/state/step": np.float32(3)})
    said = []
    model = keras_mixer.load_weights(empty(exact_gelu=names is timm), tmp_path / "a.npz", log=said.append)
    assert_same_weights(model, source)
    assert said[0] == f"The prefix '{prefix}' of the names is removed; 1 arrays without it are left out."
    del arrays[next(name for name in arrays if "stem" not in name and "embedding" not in name)]
    np.savez(tmp_path / "b.npz", **arrays)
    with pytest.raises(ValueError, match=r"b\.npz: arrays do not fit the model; missing: "):
        keras_mixer.load_weights(empty(exact_gelu=names is timm), tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", **{f"other.{name}": array for name, array in arrays.items()})
    with pytest.raises(ValueError, match="not those of a known Mixer file"):
        keras_mixer.load_weights(empty(), tmp_path / "c.npz")

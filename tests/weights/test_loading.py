"""Weights of every known layout: what a model computes with them, and what is adapted, said and refused."""

import logging

import keras
import ml_dtypes
import numpy as np
import pytest
import reference
import safetensors.numpy
from conftest import randomize
from weight_files import linen, pre_linen, timm

import keras_mixer

SIZES = {"patch_size": 4, "num_blocks": 2, "hidden_dim": 32, "tokens_mlp_dim": 16, "channels_mlp_dim": 64}
PIXELS = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
NEW_HEAD = "The file has 10 classes, the model 4 classes: the head starts at zero."


def empty(**options):
    """A model without weights that agrees with the source but for the options given."""
    defaults = {"input_shape": (16, 16, 3), "classes": 10, "classifier_activation": None}
    return keras_mixer.Mixer(**SIZES | defaults | options)


@pytest.fixture(scope="module")
def source():
    return randomize(empty(), np.random.default_rng(0))


@pytest.fixture(scope="module")
def weights(source):
    return {weight.path: weight.numpy() for weight in source.weights}


@pytest.fixture(scope="module")
def official(source, tmp_path_factory):
    return keras_mixer.save_official(source, tmp_path_factory.mktemp("official") / "official.npz")


def logits(model, images=PIXELS):
    return keras.ops.convert_to_numpy(model(images))


def saved(path, arrays):
    np.savez(path, **arrays) if path.suffix == ".npz" else safetensors.numpy.save_file(arrays, path)
    return path


def assert_same_weights(one, other):
    assert all(map(np.array_equal, one.get_weights(), other.get_weights()))


@pytest.mark.backends
@pytest.mark.parametrize(
    ("name", "layout", "exact_gelu"),
    [
        ("linen.npz", linen, False),
        ("pre-linen.npz", pre_linen, False),
        ("counted on.npz", lambda weights: pre_linen(weights, first_norm=2), False),
        ("timm.npz", timm, True),
        ("timm.safetensors", timm, True),
    ],
)
def test_files_of_every_layout_give_the_logits_of_the_oracle(source, weights, tmp_path, name, layout, exact_gelu):
    file, said = saved(tmp_path / name, layout(weights)), []
    model = keras_mixer.load_weights(empty(exact_gelu=exact_gelu), file, log=said.append)
    assert_same_weights(model, source)
    exact = {name: array.astype(np.float64) for name, array in weights.items()}
    expected = reference.mixer(PIXELS, exact, reference.exact_gelu if exact_gelu else reference.gelu)
    assert np.abs(logits(model) - expected).max() <= 1e-5 * np.abs(expected).max()
    assert ["(erf) GELU" in line and "pixel_range" in line for line in said] == [True] * exact_gelu


def test_official_files_are_exact_to_the_bit_and_of_any_precision(source, weights, official, tmp_path):
    with np.load(official) as file:
        assert {name: file[name].dtype for name in file.files} == dict.fromkeys(linen(weights), np.float32)
        assert all(np.array_equal(file[name], array) for name, array in linen(weights).items())
    for dtype in (np.float16, ml_dtypes.bfloat16, ">f4"):
        arrays = {name: array.astype(dtype) for name, array in linen(weights).items()}
        np.savez_compressed(tmp_path / "a.npz", **arrays)
        model = keras_mixer.load_weights(empty(), tmp_path / "a.npz")
        assert all(np.array_equal(w.numpy(), weights[w.path].astype(dtype).astype("f4")) for w in model.weights)


def test_own_files_load_also_those_that_keras_saves_while_training(tmp_path):
    path, loss = tmp_path / "own.weights.h5", keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    trained, said = empty(), []
    trained.compile("adam", loss, run_eagerly=True)
    save = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    trained.fit(np.zeros((4, 16, 16, 3), "uint8"), np.arange(4), callbacks=[save], verbose=0)
    trained.evaluation_crop = "resize"
    trained.save(tmp_path / "own.keras")
    assert empty(weights=tmp_path / "own.keras").evaluation_crop == "resize"
    for file in (path, tmp_path / "own.keras"):
        assert_same_weights(keras_mixer.load_weights(empty(), file), trained)
        assert_same_weights(empty(weights=file), trained)
    wide = keras_mixer.load_weights(empty(input_shape=(32, 16, 3)), path, method="bilinear", log=said.append)
    assert wide.get_layer("mixer_block_0").tokens_mlp_dim == 16
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]).save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match=r"other\.weights\.h5: The arrays are not those of a known Mixer file"):
        keras_mixer.load_weights(empty(), tmp_path / "other.weights.h5")


def test_weights_of_another_form_are_refused(weights, official, tmp_path):
    """GELU form and pixel range belong to a model; a file for another form would give wrong answers."""
    timms = empty(weights=saved(tmp_path / "timm.npz", timm(weights)))
    expected = logits(timms)
    with pytest.raises(ValueError, match=r"official.npz belongs to .* exact_gelu=False, but this one has exact_"):
        keras_mixer.load_weights(timms, official)
    np.testing.assert_array_equal(logits(timms), expected)
    for wrong in ({"exact_gelu": True}, {"pixel_range": (0, 1)}):
        with pytest.raises(ValueError, match=f"but this one has {next(iter(wrong))}"):
            empty(**wrong, weights=official)
        with pytest.raises(ValueError, match="The official layout is for tanh GELU and pixels in"):
            keras_mixer.save_official(empty(**wrong), tmp_path / "a.npz")
    assert not (tmp_path / "a.npz").exists()


def test_what_is_adapted_is_a_warning_of_the_logger_or_a_call(source, official, caplog, capsys, tmp_path):
    keras_mixer.load_weights(empty(), official)
    assert not caplog.records
    model = empty(input_shape=(16, 16, 1), classes=4)
    model.get_layer("head").bias.assign(np.ones(4))
    keras_mixer.load_weights(model, official)
    lines = [NEW_HEAD, "The stem is adapted from 3 to 1 channels."]
    assert caplog.record_tuples == [("keras_mixer", logging.WARNING, line) for line in lines]
    assert not any(weight.any() for weight in model.get_layer("head").get_weights())
    caplog.clear()
    wide = empty(input_shape=(32, 16, 3), weights=official)
    assert "widened block by block (the paper's rule): from (4, 4) to (8, 4) tokens" in caplog.text
    np.testing.assert_allclose(logits(wide, np.concatenate([PIXELS, PIXELS], 1)), logits(source), atol=1e-5)
    assert capsys.readouterr().out == ""
    path, named, other = tmp_path / "named.keras", empty(weights=official), empty()
    named.class_names, other.class_names = tuple("abcdefghij"), tuple("bcdefghija")
    named.save(path)
    for head, same in (("auto", False), ("load", True)):  # the classes of the file are others
        keras_mixer.load_weights(other, path, head=head)
        assert np.array_equal(other.get_layer("head").kernel, source.get_layer("head").kernel) == same
    assert "The file has 10 other classes, the model 10 classes: the head starts at zero." in caplog.text


def test_a_model_without_head_takes_the_rest(source, official, tmp_path):
    model, said = keras_mixer.load_weights(empty(include_top=False, pooling="avg"), official), []
    kernel, bias = source.get_layer("head").get_weights()
    np.testing.assert_allclose(logits(model) @ kernel + bias, logits(source), atol=1e-4)
    headless = keras_mixer.save_official(model, tmp_path / "headless.npz")
    assert not logits(keras_mixer.load_weights(empty(), headless, log=said.append)).any()
    assert "no head" in said[0]


def test_other_channel_counts_adapt_the_stem(source, official):
    old, kernels = source.get_layer("stem").get_weights()[0], {}
    for channels in (1, 2, 6):
        model = keras_mixer.load_weights(empty(input_shape=(16, 16, channels)), official, log=lambda line: None)
        kernels[channels] = model.get_layer("stem").get_weights()[0]
    np.testing.assert_allclose(kernels[1], old.sum(axis=2, keepdims=True), atol=1e-6)  # as of a gray image
    np.testing.assert_allclose(kernels[2], old[:, :, :2] * 1.5, rtol=1e-6)
    np.testing.assert_allclose(kernels[6], np.concatenate([old, old], axis=2) / 2, rtol=1e-6)


def test_sizes_without_whole_tiles_or_a_square_need_more(official, tmp_path):
    model, said = empty(input_shape=(20, 16, 3)), []
    before = model.get_weights()
    with pytest.raises(ValueError, match=r"model for 20 x 16 px .* whole tiles of 16 x 16 px.*method=\"bilinear\""):
        keras_mixer.load_weights(model, official)
    assert all(map(np.array_equal, model.get_weights(), before))
    keras_mixer.load_weights(model, official, method="bilinear", log=said.append)
    assert "not from the paper" in said[0]
    with pytest.raises(ValueError, match=r"with tokens_mlp_dim=16: .*tokens_mlp_dim=16 times"):
        keras_mixer.load_weights(empty(input_shape=(32, 32, 3)), official)
    oblong = empty(input_shape=(16, 24, 3))
    file = keras_mixer.save_official(oblong, tmp_path / "a.npz")
    assert_same_weights(keras_mixer.load_weights(empty(input_shape=(16, 24, 3)), file), oblong)
    with pytest.raises(ValueError, match=r"24 tokens of .* are not a square grid"):
        keras_mixer.load_weights(empty(input_shape=(16, 48, 3), tokens_mlp_dim=32), file)


def test_useless_arguments_are_refused(source, official):
    load, save, written = keras_mixer.load_weights, keras_mixer.save_official, official.read_bytes()
    twice = dict(np.load(official))
    twice["Mixer/encoderblock_0/LayerNorm_0/scale"] = twice["MixerBlock_0/LayerNorm_0/scale"]
    for message, call in {
        "not overwritten": lambda: save(source, official),
        r"ends in \.npz": lambda: save(source, official.parent / "a.ckpt"),
        "no weights file": lambda: load(source, official.parent / "a.npz"),
        r"not a known source: .*imagenet21k.*\.npz": lambda: load(source, "in99k"),
        "is not the only array for": lambda: load(source, saved(official.parent / "twice.npz", twice)),
        "head must be": lambda: load(source, official, head="zero"),
        "head does not fit": lambda: load(empty(classes=4), official, head="load"),
        "method must be": lambda: load(source, official, method="bicubic"),
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            call()
    assert official.read_bytes() == written


@pytest.mark.parametrize(
    ("prefix", "layout"),
    [("module._orig_mod.", timm), ("opt/target/", pre_linen), ("params/", linen), ("model.", timm)],
)
def test_prefixes_of_training_checkpoints_are_removed_and_said(source, weights, tmp_path, prefix, layout):
    arrays, said, form = layout(weights), [], {"exact_gelu": layout is timm}
    prefixed = {prefix + name: array for name, array in arrays.items()} | {"opt/state/step": np.int32(3)}
    file = saved(tmp_path / "a.npz", prefixed)
    assert_same_weights(keras_mixer.load_weights(empty(**form), file, log=said.append), source)
    assert said[0] == f"The prefix '{prefix}' of the names is removed; 1 arrays without it are left out."

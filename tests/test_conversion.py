import keras
import numpy as np
import pytest
from weight_files import timm

import keras_mixer
from keras_mixer.weights.convert import convert


@pytest.fixture
def source(tiny_mixer):
    return tiny_mixer()


def assert_same_weights(path, source, like=None):
    model = keras.saving.load_model(path) if path.suffix == ".keras" else keras.saving.load_model(like)
    keras_mixer.load_weights(model, path)
    for mine, theirs in zip(model.get_weights(), source.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_round_through_every_format(source, tmp_path):
    keras_mixer.save_official(source, tmp_path / "a.npz")
    keras_path = convert(tmp_path / "a.npz", tmp_path / "b.keras")
    assert keras.saving.load_model(keras_path).count_params() == source.count_params()
    assert_same_weights(keras_path, source)
    h5_path = convert(keras_path, tmp_path / "c.weights.h5")
    assert_same_weights(h5_path, source, like=keras_path)
    npz_path = convert(h5_path, tmp_path / "d.npz", like=keras_path)
    assert (tmp_path / "a.npz").stat().st_size == npz_path.stat().st_size
    with np.load(tmp_path / "a.npz") as one, np.load(npz_path) as other:
        assert set(one.files) == set(other.files)
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])


def test_timm_files_convert(source, tmp_path):
    np.savez(tmp_path / "timm.npz", **timm({w.path: w.numpy() for w in source.weights}, 2))
    assert_same_weights(convert(tmp_path / "timm.npz", tmp_path / "b.keras", log=lambda line: None), source)


def test_what_the_official_layout_cannot_carry_is_refused(tiny_mixer, source, tmp_path):
    tiny_mixer(pixel_range=(0, 1)).save(tmp_path / "a.keras")
    np.savez(tmp_path / "timm.npz", **timm({w.path: w.numpy() for w in source.weights}, 2))
    for name in ("a.keras", "timm.npz"):
        with pytest.raises(ValueError, match="official layout is for tanh GELU"):
            convert(tmp_path / name, tmp_path / "b.npz", log=lambda line: None)
    assert not (tmp_path / "b.npz").exists()


def test_features_convert_without_a_head(tiny_mixer, tmp_path):
    keras_mixer.save_official(tiny_mixer(include_top=False), tmp_path / "a.npz")
    converted = keras.saving.load_model(convert(tmp_path / "a.npz", tmp_path / "b.keras"))
    assert converted.output_shape == (None, 4, 4, 32)


def test_mistakes_are_refused_and_nothing_is_overwritten(source, tmp_path):
    keras_mixer.save_official(source, tmp_path / "a.npz")
    source.save_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match=r"ends in \.npz, \.keras, \.weights\.h5"):
        convert(tmp_path / "a.npz", tmp_path / "b.ckpt")
    with pytest.raises(ValueError, match="not overwritten"):
        convert(tmp_path / "a.npz", tmp_path / "a.npz")
    with pytest.raises(ValueError, match="--like"):
        convert(tmp_path / "a.weights.h5", tmp_path / "b.npz")
    with pytest.raises(FileNotFoundError):
        convert(tmp_path / "missing.npz", tmp_path / "b.keras")
    with pytest.raises(ValueError, match=r"'sam' is published for B/16, B/32: .*MixerB16\(weights='sam'\)"):
        convert("sam", tmp_path / "b.keras")
    (tmp_path / "bad.npz").write_bytes(b"no zip")
    with pytest.raises(ValueError, match=r"bad\.npz"):
        convert(tmp_path / "bad.npz", tmp_path / "b.keras")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a.npz", "a.weights.h5", "bad.npz"]

import keras
import numpy as np
import pytest
from weight_files import timm

import keras_mixer
from keras_mixer.weights.convert import convert


def same(model, source):
    return all(map(np.array_equal, model.get_weights(), source.get_weights()))


def test_round_through_every_format(tiny_mixer, tmp_path):
    source = tiny_mixer()
    npz = keras_mixer.save_official(source, tmp_path / "a.npz")
    keras_path = convert(npz, tmp_path / "b.keras")
    assert same(keras.saving.load_model(keras_path), source)
    h5_path = convert(keras_path, tmp_path / "c.weights.h5")
    assert same(keras_mixer.load_weights(tiny_mixer(), h5_path), source)
    again = convert(keras_path, tmp_path / "d.npz")
    assert npz.read_bytes() == again.read_bytes()
    keras_mixer.save_official(tiny_mixer(include_top=False), tmp_path / "headless.npz")
    headless = keras.saving.load_model(convert(tmp_path / "headless.npz", tmp_path / "headless.keras"))
    assert headless.output_shape == (None, 4, 4, 32)


def test_timm_files_convert_and_what_the_official_layout_cannot_carry_is_refused(tiny_mixer, tmp_path):
    source = tiny_mixer()
    np.savez(tmp_path / "timm.npz", **timm({w.path: w.numpy() for w in source.weights}))
    assert same(keras.saving.load_model(convert(tmp_path / "timm.npz", tmp_path / "b.keras")), source)
    tiny_mixer(pixel_range=(0, 1)).save(tmp_path / "a.keras")
    for name in ("a.keras", "timm.npz", "b.keras"):
        with pytest.raises(ValueError, match="official layout is for tanh GELU"):
            convert(tmp_path / name, tmp_path / "b.npz")
    assert not (tmp_path / "b.npz").exists()


def test_mistakes_are_refused_and_nothing_is_overwritten(tmp_path):
    for name in ("a.keras", "a.weights.h5", "bad.npz"):
        (tmp_path / name).write_bytes(b"not opened")
    for source, target, message in [
        ("a.keras", "b.ckpt", r"ends in \.npz, \.keras, \.weights\.h5"),
        ("a.keras", "a.keras", "not overwritten"),
        ("a.weights.h5", "b.npz", "which model it is of"),
        ("bad.npz", "b.keras", r"bad\.npz"),
    ]:
        with pytest.raises(ValueError, match=message):
            convert(tmp_path / source, tmp_path / target)
    with pytest.raises(ValueError, match="'sam' is published for B/16, B/32"):
        convert("sam", tmp_path / "b.keras")
    assert [item.read_bytes() for item in tmp_path.iterdir()] == [b"not opened"] * 3

"""Damaged files of many kinds: each is refused by name, and the model stays as it was."""

import io
import struct
import zipfile

import h5py
import keras
import numpy as np
import pytest
import safetensors.numpy
from conftest import randomize
from weight_files import linen, timm

import keras_mixer
from keras_mixer.export.predictor import load_model

NAMES = ["stem/kernel", "MixerBlock_1/token_mixing/Dense_0/kernel", "MixerBlock_0/LayerNorm_1/scale", "head/bias"]
OURS = ["stem/kernel", "mixer_block_1/token_mixing/dense_0/kernel", "mixer_block_0/layer_norm_1/gamma", "head/bias"]
TOKENS = [f"MixerBlock_0/token_mixing/Dense_{i}/bias" for i in (0, 1)]  # they decide about the model to build


def npz(arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def change(name, mutate):
    return lambda arrays: arrays | {name: mutate(arrays[name])}


def without(prefix):
    return lambda arrays: {name: array for name, array in arrays.items() if not name.startswith(prefix)}


def member(name, content):
    """The file with one member's bytes replaced."""

    def damaged(arrays):
        buffer = io.BytesIO()
        with (
            zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target,
            zipfile.ZipFile(io.BytesIO(npz(arrays))) as source,
        ):
            for item in source.namelist():
                kept = source.read(item)
                target.writestr(item, content(kept) if item == f"{name}.npy" else kept)
        return buffer.getvalue()

    return damaged


def header(shape, content=b""):
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


MUTATIONS = {  # they return the arrays of the damaged file, or its bytes
    "empty": lambda arrays: b"",
    "text": lambda arrays: b"<html>404</html>",
    "a lone array": lambda arrays: header((2,), bytes(8)),
    "no arrays": lambda arrays: {},
    "other arrays": lambda arrays: {"weights": np.zeros((2, 2), np.float32)},
    **{f"cut at {end}": lambda arrays, end=end: npz(arrays)[:end] for end in (100, 9000, -9)},
    "bits changed": lambda arrays: npz(arrays).replace(arrays["stem/kernel"].tobytes()[-8:], bytes(8)),
    **{f"without {prefix}": without(prefix) for prefix in ("stem/bias", "MixerBlock_1", "head/kernel", "pre_head")},
    **{f"transposed {name}": change(name, np.transpose) for name in NAMES[:2]},
    **{f"one too long {name}": change(name, lambda a: np.concatenate([a, a[:1]])) for name in NAMES},
    **{f"NaN in {name}": change(name, lambda a: np.concatenate([a[:-1], a[-1:] * np.nan])) for name in NAMES},
    "infinity": change("stem/kernel", lambda a: a * np.inf),
    **{
        f"type {kind}": change("stem/bias", lambda a, kind=kind: a.astype(kind))
        for kind in ("i4", "c8", "U8", "O", "?")
    },
    "extra block": lambda arrays: arrays | {"MixerBlock_2/LayerNorm_0/scale": np.ones(32, np.float32)},
    "extra array": lambda arrays: arrays | {"optimizer/step": np.float32(3)},
    **{f"scalar in {name}": change(name, lambda a: a[0]) for name in TOKENS},
    **{f"nothing in {name}": change(name, lambda a: a[:0]) for name in TOKENS},
    **{f"two axes in {name}": change(name, lambda a: a[:, None]) for name in TOKENS},
    "header of a giant": member("stem/bias", lambda kept: header((10**12,), bytes(64))),
    "negative shape": member("stem/bias", lambda kept: header((-8, -4), bytes(128))),
    "code in the header": member("stem/bias", lambda kept: header("(__import__('os').getpid(),)")),
    "huge header": member("stem/bias", lambda kept: b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b" " * 64),
    "deeply nested header": member("stem/bias", lambda kept: header("(" * 150 + ")" * 150, bytes(128))),
    "zip bomb": member("stem/bias", lambda kept: header((32,), bytes(50_000_000))),
    "member emptied": member("head/kernel", lambda kept: b""),
    "member cut": member("head/kernel", lambda kept: kept[:-4]),
}


@pytest.fixture(scope="module")
def model():
    return randomize(keras_mixer.Mixer(4, 2, 32, 24, 64, input_shape=(16, 16, 3), classes=10), np.random.default_rng(7))


@pytest.fixture(scope="module")
def weights(model):
    return {weight.path: weight.numpy() for weight in model.weights}


def assert_refused(model, path, mentions=""):
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"{path.name}.*{mentions}"):
        keras_mixer.load_weights(model, path)
    assert all(map(np.array_equal, model.get_weights(), before))


@pytest.mark.parametrize("name", MUTATIONS)
def test_damaged_official_files_are_refused(model, weights, tmp_path, name):
    path, damaged = tmp_path / "damaged.npz", MUTATIONS[name](linen(weights))
    path.write_bytes(damaged if isinstance(damaged, bytes) else npz(damaged))
    assert_refused(model, path, next((own for known, own in zip(NAMES, OURS, strict=True) if name.endswith(known)), ""))
    if "token_mixing" in name:
        with pytest.raises(ValueError, match=path.name):
            keras_mixer.Mixer(4, 2, 32, 24, 64, input_shape=(32, 16, 3), weights=path)


def test_damaged_safetensors_are_refused(model, weights, tmp_path):
    whole = timm(weights)
    content, path = safetensors.numpy.save(whole), tmp_path / "damaged.safetensors"
    damages = [b"", content[:100], content[:-100], b"\xff" * 8 + content[8:], content.replace(b"F32", b"I32", 1)]
    damages.append(safetensors.numpy.save({name: array for name, array in whole.items() if name != "norm.bias"}))
    damages.append(safetensors.numpy.save(whole | {"stem.proj.bias": np.full(32, np.nan, np.float32)}))
    for damage in damages:
        path.write_bytes(damage)
        assert_refused(model, path)


def test_damaged_own_files_are_refused(model, tmp_path):
    other = keras_mixer.Mixer(4, 1, 32, 24, 64, input_shape=(16, 16, 3), classes=10)
    broken = keras.models.clone_model(model)
    broken.set_weights([np.full(weight.shape, np.nan) for weight in model.weights])
    for suffix, save in {".keras": keras.Model.save, ".weights.h5": keras.Model.save_weights}.items():
        whole, damaged, nan = (tmp_path / f"{name}{suffix}" for name in ("whole", "damaged", "nan"))
        save(model, whole)
        content = bytearray(whole.read_bytes())
        for damage in (b"", content[: len(content) // 2], b"text"):
            damaged.write_bytes(damage)
            assert_refused(model, damaged)
        assert_refused(other, whole)
        save(broken, nan)
        assert_refused(model, nan, "not finite")
        if suffix == ".keras":
            content[content.find(model.get_layer("stem").get_weights()[0].tobytes()) + 50] ^= 0xFF
            damaged.write_bytes(content)
            assert_refused(model, damaged)


OUTSIDE = [("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
HDF5 = {
    "link to another file": lambda file, name, shape: file.update({name: h5py.ExternalLink("/etc/passwd", "/")}),
    "soft link": lambda file, name, shape: file.update({name: h5py.SoftLink("/layers")}),
    "values elsewhere": lambda file, name, shape: file.create_dataset(name, shape, "f4", external=OUTSIDE),
    "claims to be huge": lambda file, name, shape: file.create_dataset(name, (10**6,) * 2, "f4", chunks=(1000, 1000)),
}


@pytest.mark.parametrize("kind", HDF5)
def test_hdf5_that_reaches_out_or_claims_too_much_is_refused(model, tmp_path, kind):
    bad = tmp_path / "bad.weights.h5"
    model.save_weights(bad)
    with h5py.File(bad, "a") as file:
        found = []
        file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
        shape = file[found[0]].shape
        del file[found[0]]
        HDF5[kind](file, found[0], shape)
        file["itself"] = file["/"]  # a circle, which must not be walked for ever
    assert_refused(model, bad)
    model.save(tmp_path / "good.keras")
    with zipfile.ZipFile(tmp_path / "good.keras") as good, zipfile.ZipFile(tmp_path / "bad.keras", "w") as keras_file:
        for item in good.namelist():
            keras_file.writestr(item, bad.read_bytes() if item == "model.weights.h5" else good.read(item))
    assert_refused(model, tmp_path / "bad.keras")


def test_a_keras_file_runs_no_code_and_does_not_grow(model, tmp_path):
    image = keras.Input((16, 16, 3))
    lambda_layer = keras.layers.Lambda(lambda x: keras.ops.mean(x, (1, 2)))
    keras.Model(image, keras.layers.Dense(10)(lambda_layer(image))).save(tmp_path / "code.keras")
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", bytes(50_000_000))
    for name, reason in {"code": "(?s:.)*(unsafe|lambda)", "bomb": "says that it unpacks to 50,000,000"}.items():
        for read in (load_model, lambda path: keras_mixer.load_weights(model, path)):
            with pytest.raises(ValueError, match=rf"{name}\.keras .*{reason}"):
                read(tmp_path / f"{name}.keras")

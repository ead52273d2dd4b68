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
from keras_mixer.export.predictor import load_mixer

NAMES = ["stem/kernel", "MixerBlock_1/token_mixing/Dense_0/kernel", "MixerBlock_0/LayerNorm_1/scale", "head/bias"]


def npz(arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def change(name, mutate):
    return lambda arrays: arrays | {name: mutate(arrays[name])}


def with_value(value):
    return lambda array: np.where(np.arange(array.size).reshape(array.shape) == array.size // 2, value, array)


def rename(old):
    return lambda arrays: {name + "_old" * (name == old): array for name, array in arrays.items()}


def without(*prefixes):
    return lambda arrays: {name: array for name, array in arrays.items() if not name.startswith(prefixes)}


def cut(share):
    return lambda arrays: npz(arrays)[: int(len(npz(arrays)) * share)]


def flip(position):
    def damaged(arrays):
        content = bytearray(npz(arrays))
        start = content.find(b"stem/kernel.npy") + 200
        content[start + position] ^= 0xFF
        return bytes(content)

    return damaged


def member(name, content, compress=zipfile.ZIP_STORED):
    """The file with one member's bytes replaced."""

    def damaged(arrays):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compress) as target, zipfile.ZipFile(io.BytesIO(npz(arrays))) as source:
            for item in source.namelist():
                kept = source.read(item)
                target.writestr(item, content(kept) if item == f"{name}.npy" else kept)
        return buffer.getvalue()

    return damaged


def header(shape, dtype="<f4"):
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def twice(arrays):
    buffer = io.BytesIO(npz(arrays))
    with zipfile.ZipFile(buffer, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("stem/bias.npy", b"")
    return buffer.getvalue()


SHAPES = {"scalar": lambda a: a[0], "nothing": lambda a: a[:0]}
SHAPES |= {"two axes": lambda a: a[:, None], "one value": lambda a: a[:1]}
MUTATIONS = {  # they return the arrays of the damaged file, or its bytes
    "empty": lambda arrays: b"",
    "text": lambda arrays: b"<html>404</html>",
    "a lone array": lambda arrays: header((2,)) + b"\0" * 8,
    "no arrays": lambda arrays: {},
    "other arrays": lambda arrays: {"weights": np.zeros((2, 2), np.float32)},
    **{f"cut to {share:.0%}": cut(share) for share in (0.02, 0.3, 0.6, 0.95, 0.999)},
    **{f"bit flipped at {position}": flip(position) for position in (40, 400, 4000)},
    **{f"without {prefix}": without(prefix) for prefix in ("stem/bias", "MixerBlock_1", "head/kernel", "pre_head")},
    "without a norm": without("MixerBlock_0/LayerNorm_0"),
    **{f"renamed {name}": rename(name) for name in NAMES},
    **{f"transposed {name}": change(name, np.transpose) for name in NAMES[:2]},
    **{f"one too long {name}": change(name, lambda a: np.concatenate([a, a[:1]])) for name in NAMES},
    **{f"NaN in {name}": change(name, with_value(np.nan)) for name in NAMES},
    **{f"infinity in {name}": change(name, with_value(-np.inf)) for name in NAMES[:2]},
    "integers": change("stem/bias", lambda a: a.astype(np.int32)),
    "complex": change("stem/bias", lambda a: a.astype(np.complex64)),
    "text array": change("stem/bias", lambda a: a.astype("U8")),
    "objects": change("stem/bias", lambda a: a.astype(object)),
    "booleans": change("head/bias", lambda a: a > 0),
    "structured": change("stem/bias", lambda a: np.zeros(len(a), [("x", "f4")])),
    "extra block": lambda arrays: arrays | {"MixerBlock_2/LayerNorm_0/scale": np.ones(32, np.float32)},
    "extra array": lambda arrays: arrays | {"optimizer/step": np.float32(3)},
    "scalar": change("stem/bias", lambda a: np.float32(1)),
    **{
        f"{kind} in {name}": change(name, mutate)
        for name in (f"MixerBlock_0/token_mixing/Dense_{i}/bias" for i in (0, 1))
        for kind, mutate in SHAPES.items()
    },
    "two of one name": twice,
    "header of a giant": member("stem/bias", lambda kept: header((10**12,)) + b"\0" * 64),
    "negative shape": member("stem/bias", lambda kept: header((-1,)) + b"\0" * 64),
    "code in the header": member("stem/bias", lambda kept: header("(__import__('os').getpid(),)")),
    "garbage in the header": member("stem/bias", lambda kept: b"\x93NUMPY\x09\x09" + b"\xff" * 40),
    "huge header": member("stem/bias", lambda kept: b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b" " * 64),
    "zip bomb": member("stem/bias", lambda kept: header((32,)) + b"\0" * 50_000_000, zipfile.ZIP_DEFLATED),
    "bomb in all members": member("head/kernel", lambda kept: header((32, 10)) + bytes(9_000_000), zipfile.ZIP_LZMA),
    "compressed by LZMA": member("head/kernel", lambda kept: kept, zipfile.ZIP_LZMA),
    "compressed by bzip2": member("head/kernel", lambda kept: kept, zipfile.ZIP_BZIP2),
    "two negative sides": member("stem/bias", lambda kept: header((-8, -4)) + b"\0" * 128),
    "deeply nested header": member("stem/bias", lambda kept: header("(" * 150 + ")" * 150) + b"\0" * 128),
    "text without end in the header": member("stem/bias", lambda kept: header("'''") + b"\0" * 128),
    "many signs in the header": member("stem/bias", lambda kept: header("-" * 9000 + "1") + b"\0" * 128),
    "member emptied": member("head/kernel", lambda kept: b""),
    "member cut": member("head/kernel", lambda kept: kept[:-4]),
    "member with more": member("head/kernel", lambda kept: kept + b"\0\0\0\0"),
}


@pytest.fixture(scope="module")
def model():
    return randomize(keras_mixer.Mixer(4, 2, 32, 24, 64, input_shape=(16, 16, 3), classes=10), np.random.default_rng(7))


@pytest.fixture(scope="module")
def wide():
    return keras_mixer.Mixer(4, 2, 32, 24, 64, input_shape=(20, 16, 3), classes=10)


@pytest.fixture(scope="module")
def arrays(model):
    return linen({weight.path: weight.numpy() for weight in model.weights}, 2)


def assert_refused(model, path, mentions=""):
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"{path.name}.*{mentions}"):
        keras_mixer.load_weights(model, path)
    assert all(map(np.array_equal, model.get_weights(), before))


@pytest.mark.parametrize("name", MUTATIONS)
def test_damaged_official_files_are_refused(model, wide, arrays, tmp_path, name):
    path, damaged = tmp_path / "damaged.npz", MUTATIONS[name](arrays)
    path.write_bytes(damaged if isinstance(damaged, bytes) else npz(damaged))
    touched = next((known for known in NAMES if name.endswith(known)), "")
    assert_refused(model, path, touched)
    with pytest.raises(ValueError, match=path.name):
        keras_mixer.load_weights(wide, path, method="bilinear", log=lambda line: None)
    if "token_mixing" in name:  # the shapes decide about the model to build
        with pytest.raises(ValueError, match=path.name):
            keras_mixer.Mixer(4, 2, 32, 24, 64, input_shape=(32, 16, 3), weights=path)


def test_damaged_safetensors_are_refused(model, tmp_path):
    whole = timm({weight.path: weight.numpy() for weight in model.weights}, 2)
    content = safetensors.numpy.save(whole)
    damages = [b"", content[:100], content[:-100], b"\xff" * 8 + content[8:], content.replace(b"F32", b"I32", 1)]
    damages.append(safetensors.numpy.save({name: array for name, array in whole.items() if name != "norm.bias"}))
    damages.append(safetensors.numpy.save(whole | {"stem.proj.bias": np.full(32, np.nan, np.float32)}))
    for number, damage in enumerate(damages):
        path = tmp_path / f"damaged{number}.safetensors"
        path.write_bytes(damage)
        assert_refused(model, path)


def test_damaged_own_files_are_refused(model, tmp_path):
    other = keras_mixer.Mixer(4, 1, 32, 24, 64, input_shape=(16, 16, 3), classes=10)
    model.save(tmp_path / "a.keras")
    model.save_weights(tmp_path / "a.weights.h5")
    for name in ("a.keras", "a.weights.h5"):
        content = (tmp_path / name).read_bytes()
        for number, damage in enumerate([b"", content[: len(content) // 2], b"text"]):
            path = tmp_path / f"damaged{number}{name[1:]}"
            path.write_bytes(damage)
            assert_refused(model, path)
        assert_refused(other, tmp_path / name)
    flipped = bytearray((tmp_path / "a.keras").read_bytes())
    flipped[flipped.find(model.get_layer("stem").get_weights()[0].tobytes()) + 50] ^= 0xFF
    (tmp_path / "flipped.keras").write_bytes(flipped)
    assert_refused(model, tmp_path / "flipped.keras")
    broken = keras.models.clone_model(model)
    broken.set_weights([np.full(weight.shape, np.nan) for weight in model.weights])
    broken.save(tmp_path / "nan.keras")
    broken.save_weights(tmp_path / "nan.weights.h5")
    for name in ("nan.keras", "nan.weights.h5"):
        assert_refused(model, tmp_path / name, "not finite")


def test_an_archive_that_unpacks_to_far_more_is_refused_unread(model, arrays, tmp_path):
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("stem/kernel.npy", "w") as file:
        file.write(header((500, 500, 1, 50)))
        for _ in range(5):
            file.write(bytes(10_000_000))
    with pytest.raises(ValueError, match=r"bomb\.npz .*has .* bytes but says that it unpacks to 50,000,\d+"):
        keras_mixer.load_weights(model, path)
    before = model.get_weights()
    np.savez_compressed(tmp_path / "honest.npz", **{name: array.astype(">f4") for name, array in arrays.items()})
    keras_mixer.load_weights(model, tmp_path / "honest.npz")  # of the other byte order, too
    assert all(map(np.array_equal, model.get_weights(), before))


def values_from_another_file(file, name, shape):
    layout = h5py.VirtualLayout(shape, "f4")
    layout[...] = h5py.VirtualSource("/etc/passwd", "a", shape)
    file.create_virtual_dataset(name, layout)


HDF5 = {
    "link to another file": lambda file, name, shape: file.update({name: h5py.ExternalLink("/etc/passwd", "/")}),
    "soft link": lambda file, name, shape: file.update({name: h5py.SoftLink("/layers")}),
    "values elsewhere": lambda file, name, shape: file.create_dataset(
        name, shape, "f4", external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)]
    ),
    "values from another file": values_from_another_file,
    "claims to be huge": lambda file, name, shape: file.create_dataset(name, (10**6,) * 2, "f4", chunks=(1000, 1000)),
}


@pytest.mark.parametrize("kind", HDF5)
def test_hdf5_that_reaches_out_or_claims_too_much_is_refused(model, tmp_path, kind):
    def damage(path):
        with h5py.File(path, "a") as file:
            found = []
            file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
            shape = file[found[0]].shape
            del file[found[0]]
            HDF5[kind](file, found[0], shape)
            file["itself"] = file["/"]  # a circle, which must not be walked for ever

    model.save_weights(tmp_path / "bad.weights.h5")
    damage(tmp_path / "bad.weights.h5")
    assert_refused(model, tmp_path / "bad.weights.h5")
    model.save(tmp_path / "good.keras")
    with zipfile.ZipFile(tmp_path / "good.keras") as good, zipfile.ZipFile(tmp_path / "bad.keras", "w") as bad:
        good.extract("model.weights.h5", tmp_path)
        damage(tmp_path / "model.weights.h5")
        for item in good.namelist():
            changed = item == "model.weights.h5"
            bad.writestr(item, (tmp_path / item).read_bytes() if changed else good.read(item))
    assert_refused(model, tmp_path / "bad.keras")
    with pytest.raises(ValueError, match=r"bad\.keras"):
        load_mixer(tmp_path / "bad.keras")


def test_a_keras_file_runs_no_code(model, tmp_path):
    image = keras.Input((16, 16, 3))
    lambda_layer = keras.layers.Lambda(lambda x: keras.ops.mean(x, (1, 2)))
    keras.Model(image, keras.layers.Dense(10)(lambda_layer(image))).save(tmp_path / "code.keras")
    for read in (load_mixer, lambda path: keras_mixer.load_weights(model, path)):
        with pytest.raises(ValueError, match=r"code\.keras .*(?s:.)*(unsafe|lambda)"):
            read(tmp_path / "code.keras")


def test_a_keras_file_that_unpacks_to_far_more_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", bytes(50_000_000))
    with pytest.raises(ValueError, match=r"bomb\.keras .*says that it unpacks to 50,000,000"):
        load_mixer(tmp_path / "bomb.keras")

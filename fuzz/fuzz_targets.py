"""All readers of untrusted bytes, each with inputs to try and its documented errors."""

import contextlib
import dataclasses
import io
import json
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors.numpy
import tensorflow as tf
from hypothesis import strategies as st
from PIL import Image

from keras_mixer.data.decode import evaluation_crop, image_of, training_crop
from keras_mixer.export.predictor import Predictor, read_image
from keras_mixer.serving import Client, ServingError, answers_in
from keras_mixer.training.recipe import EVALUATION_CROPS, Recipe
from keras_mixer.training.run import read_recipe
from keras_mixer.weights.layouts import read_weights


@dataclasses.dataclass(frozen=True)
class Target:
    """One reader under test.

    Attributes:
        inputs: the inputs to try.
        read: reads one input.
        allowed: documented errors; any other is a finding.
    """

    inputs: st.SearchStrategy
    read: Callable
    allowed: tuple[type[Exception], ...]


def damaged(seeds):
    """Valid inputs with up to six edits: bytes changed, removed, inserted or repeated, or the end truncated."""
    place = st.integers(0, 2**16)
    edit = st.tuples(st.sampled_from(["change", "insert", "remove", "repeat", "cut"]), place, st.binary(max_size=8))

    def apply(seed, edits):
        content = bytearray(seed)
        for kind, where, some in edits:
            where %= len(content) + 1
            if kind == "change":
                content[where : where + len(some)] = some
            elif kind == "insert":
                content[where:where] = some
            elif kind == "remove":
                del content[where : where + len(some)]
            elif kind == "repeat":
                content[where:where] = content[where : where + 2 ** len(some)]
            else:
                del content[where:]
        return bytes(content)

    valid = st.sampled_from(seeds)  # sometimes unchanged, so that readers reach their end
    return st.builds(apply, valid, st.lists(edit, max_size=6)) | st.binary(max_size=64) | valid


def _weights():
    rng = np.random.default_rng(0)
    sizes = {"token": (4, 3), "channel": (8, 5)}
    arrays = {"stem/kernel": rng.normal(size=(2, 2, 3, 8)), "stem/bias": np.zeros(8)}
    for kind, (wide, hidden) in sizes.items():
        prefix = f"MixerBlock_0/{kind}_mixing"
        arrays |= {f"{prefix}/Dense_0/kernel": np.ones((wide, hidden)), f"{prefix}/Dense_0/bias": np.ones(hidden)}
        arrays |= {f"{prefix}/Dense_1/kernel": np.ones((hidden, wide)), f"{prefix}/Dense_1/bias": np.ones(wide)}
    for norm in ("MixerBlock_0/LayerNorm_0", "MixerBlock_0/LayerNorm_1", "pre_head_layer_norm"):
        arrays |= {f"{norm}/scale": np.ones(8), f"{norm}/bias": np.zeros(8)}
    return {name: array.astype(np.float16) for name, array in arrays.items()}


def _npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def _npz(members, method):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members:
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def _archives():
    """Damaged archives, and valid archives with damaged members or member headers."""
    arrays = _weights()
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    valid = [_npz([(name, _npy(array)) for name, array in arrays.items()], method) for method in methods[:2]]
    side = st.integers(-(2**63), 2**63) | st.sampled_from([0, 1, 2, 8])
    header = st.builds(
        "{{'descr': {}, 'fortran_order': {}, 'shape': {}, }}".format,
        st.sampled_from(["'<f2'", "'|O'", "'<f4'", "'>f8'", "'<f16'", "'<U9'", "[('a', '<f2')]", "'V2'"]) | st.text(),
        st.sampled_from(["True", "False", "None", "-" * 9000 + "1", "(" * 150 + ")" * 150]),
        st.lists(side, max_size=5).map(tuple) | st.text(max_size=20),
    )
    made = header.map(lambda text: b"\x93NUMPY\x01\x00" + len(text.encode()).to_bytes(8, "little")[:2] + text.encode())
    member = damaged([_npy(array) for array in arrays.values()]) | st.builds(
        bytes.__add__, made, st.binary(max_size=64)
    )
    members = st.lists(
        st.tuples(st.sampled_from([*arrays, "other"]), member), max_size=3, unique_by=lambda pair: pair[0]
    )
    return damaged(valid) | st.builds(_npz, members, st.sampled_from(methods))


def _read_arrays(suffix):
    def read(content):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"weights{suffix}")
            path.write_bytes(content)
            read_weights(path).variant()

    return read


def _safetensors():
    valid = safetensors.numpy.save(_weights())
    side = st.integers(-(2**63), 2**64) | st.integers(0, 4)
    entry = st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(["F32", "F16", "BF16", "F64", "I8", "F8_E4M3", "X"]),
            "shape": st.lists(side, max_size=4),
            "data_offsets": st.lists(side, min_size=2, max_size=2),
        }
    )
    headers = st.dictionaries(
        st.sampled_from(["stem/kernel", "stem.proj.weight", "head/bias", "__metadata__"]) | st.text(), entry
    )
    made = headers.map(lambda header: json.dumps(header).encode())
    framed = st.builds(lambda head, data: len(head).to_bytes(8, "little") + head + data, made, st.binary(max_size=64))
    return damaged([valid]) | framed


def _images():
    rng = np.random.default_rng(0)
    first, second = (Image.fromarray(rng.integers(0, 256, (9, 13, 3), np.uint8)) for _ in range(2))
    grey = Image.fromarray(np.eye(7, dtype=np.uint8) * 255)
    forms = [(first, "JPEG", {}), (first, "JPEG", {"progressive": True}), (grey, "PNG", {}), (first, "PNG", {})]
    forms += [(first, "BMP", {}), (grey, "TIFF", {}), (first, "WEBP", {"lossless": True, "exif": b"Exif"})]
    exif = Image.Exif()
    exif[0x0112] = 6
    forms += [(first, "JPEG", {"exif": exif})]
    forms += [(first, "GIF", {"save_all": True, "append_images": [second]})]
    seeds = []
    for image, form, options in forms:
        buffer = io.BytesIO()
        image.save(buffer, form, **options)
        seeds.append(buffer.getvalue())
    return damaged(seeds)


@tf.function(input_signature=[tf.TensorSpec((), tf.string), tf.TensorSpec((), tf.int32)])
def _look_at(encoded, orientation):
    example = {"image": encoded, "orientation": orientation}
    crops = [evaluation_crop(image_of(example), (16, 16), crop) for crop in EVALUATION_CROPS]
    return [*crops, training_crop(example, tf.fill((1, 5), 0.3), Recipe("fuzz", data="digits", image_size=16))[0]]


def _look(content):
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        images = read_image(file.name, lambda example: _look_at(example["image"], example["orientation"]))
    if any(image.shape != (16, 16, 3) for image in images):
        raise AssertionError("an image does not have the requested size")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(max_size=8), inside, max_size=4),
    max_leaves=8,
)


def _read_recipe(text):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_bytes(text)
        read_recipe(folder)


def _recipes():
    """A valid recipe with some fields changed, or damaged JSON."""
    good = dataclasses.asdict(Recipe(name="a", data="digits"))
    values = JSON | st.sampled_from([1e400, 10**400, -1, [], [0.1, 0.9], "B/16", "tiny/4", "[" * 5000])
    changed = st.dictionaries(st.sampled_from([*good, "unknown"]), values, max_size=4)
    written = changed.map(lambda changes: json.dumps(good | changes).encode())
    return written | damaged([json.dumps(good).encode()]) | st.sampled_from([b"[" * 100_000, b"", b"\xff"])


def _answers():
    row = {"probabilities": [0.25, 0.75], "classes": [1, 0], "labels": ["b", "a"]}
    keys = st.sampled_from([*row, "error", "predictions"])
    rows = st.dictionaries(keys, JSON | st.lists(JSON, max_size=3)).map(lambda changes: row | changes)
    content = st.fixed_dictionaries({"predictions": st.lists(rows, max_size=2) | JSON})
    valid = json.dumps({"predictions": [row]}).encode()
    body = content.map(lambda some: json.dumps(some).encode()) | damaged([valid, b'{"error": "no"}', b"[" * 100_000])
    url = st.text(max_size=40) | st.builds(
        "{}://{}/v1/models/{}".format, st.sampled_from(["http", "https"]), *[st.text()] * 2
    )
    return st.tuples(body, url)


def _read_answer(given):
    body, url = given
    with contextlib.suppress(ValueError):
        Client(url)
    answers_in(body, 1)


def _descriptions():
    good = {"class_names": ["a", "b"], "evaluation_crop": "resize", "input_shape": [2, 2, 3], "pixel_range": [0, 255]}
    good |= {"output": "probabilities", "activation": "softmax", "trained_on": None}
    changed = st.dictionaries(st.sampled_from(list(good)), JSON, max_size=3)
    written = changed.map(lambda changes: json.dumps(good | changes).encode())
    return written | damaged([json.dumps(good).encode()]) | JSON.map(lambda some: json.dumps(some).encode())


def _describe(text):
    Predictor.from_json(text, "it", {"image": print})


TARGETS = {
    "npz": Target(_archives(), _read_arrays(".npz"), (ValueError,)),
    "safetensors": Target(_safetensors(), _read_arrays(".safetensors"), (ValueError,)),
    "image": Target(_images(), _look, (ValueError, tf.errors.OpError)),
    "recipe": Target(_recipes(), _read_recipe, (ValueError,)),
    "answer": Target(_answers(), _read_answer, (ServingError,)),
    "description": Target(_descriptions(), _describe, (ValueError, KeyError, TypeError)),
}

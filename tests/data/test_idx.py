"""IDX files as MNIST and its successors are published, written here in miniature."""

import gzip
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_mixer.data import sources
from keras_mixer.data.decode import image_of
from keras_mixer.data.sources import load_source

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 5, 7), np.uint8)
LABELS = np.arange(40, dtype=np.uint8) % 10
COUNTS = {"train": 40, "t10k": 10}


def write_set(folder, packed=True):
    folder.mkdir()
    for part, count in COUNTS.items():
        for kind, content in {
            "images-idx3": struct.pack(">4I", 0x0803, count, 5, 7) + IMAGES[:count].tobytes(),
            "labels-idx1": struct.pack(">2I", 0x0801, count) + LABELS[:count].tobytes(),
        }.items():
            path = folder / f"{part}-{kind}-ubyte{'.gz' * packed}"
            path.write_bytes(gzip.compress(content) if packed else content)
    return folder


def test_images_and_labels_are_those_of_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "FASHION_MNIST", write_set(tmp_path / "fashion-mnist", packed=False))
    source = load_source("fashion_mnist")
    assert source.name == f"fashion-mnist (IDX files in {tmp_path / 'fashion-mnist'})"
    for split, count in zip((source.train, source.test), COUNTS.values(), strict=True):
        pixels = [image_of(split.read(element)) for element in split.elements]
        np.testing.assert_array_equal(pixels, np.repeat(IMAGES[:count, ..., None], 3, -1))
        np.testing.assert_array_equal(split.labels(), LABELS[:count])
    monkeypatch.setattr(sources, "FASHION_LABELS", sources.zlib.crc32(LABELS.tobytes()))
    assert load_source("fashion_mnist").class_names == sources.CLOTHES
    assert tuple(tfds.builder("fashion_mnist").info.features["label"].names) == sources.CLOTHES


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3", lambda packed: packed[:-50], "truncated"),
        ("t10k-images-idx3", lambda packed: gzip.compress(gzip.decompress(packed)[:-7]), "array of size 343"),
        ("train-labels-idx1", lambda packed: gzip.compress(b""), "missing, truncated or damaged"),
        ("train-labels-idx1", lambda packed: gzip.compress(struct.pack(">2I", 0x0801, 1) + b"3"), "but 1 labels"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, change, message):
    path = write_set(tmp_path / "set") / f"{name}-ubyte.gz"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        load_source(str(tmp_path / "set"))
    assert "labels" in message or path.name in str(error.value)
    path.rename(path.with_name("emnist-digits-images-idx3-ubyte"))
    with pytest.raises(ValueError, match=rf"No such file .*{name}-ubyte.gz"):
        load_source(str(tmp_path / "set"))

"""IDX files as MNIST and its successors are published, written here in miniature."""

import gzip
import struct

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_mixer.data import sources
from keras_mixer.data.decode import image_of
from keras_mixer.data.sources import load_source

NAMES = {"train": 40, "t10k": 10}


def write_set(folder, prefix="", parts=NAMES, packed=True):
    """A small set of random images; returns {part: (images, labels)}."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    written = {}
    for part, count in parts.items():
        images = rng.integers(0, 256, (count, 5, 7), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        contents = {
            "images-idx3": struct.pack(">4I", 0x0803, *images.shape) + images.tobytes(),
            "labels-idx1": struct.pack(">2I", 0x0801, count) + labels.tobytes(),
        }
        for kind, content in contents.items():
            path = folder / f"{prefix}{part}-{kind}-ubyte{'.gz' * packed}"
            path.write_bytes(gzip.compress(content) if packed else content)
        written[part] = images, labels
    return written


def pixels(split):
    return np.stack([np.asarray(image_of(split.read(element))) for element in split.elements])


@pytest.mark.parametrize("packed", [True, False])
def test_images_and_labels_are_those_of_the_files(tmp_path, packed):
    written = write_set(tmp_path / "set", packed=packed)
    source = load_source(str(tmp_path / "set"))
    assert source.class_names == tuple("0123456789")
    for split, part in ((source.train, "train"), (source.test, "t10k")):
        images, labels = written[part]
        assert split.size == len(images)
        np.testing.assert_array_equal(pixels(split), np.repeat(images[..., None], 3, -1))
        np.testing.assert_array_equal(split.labels(), labels)


def test_fashion_mnist_is_known_by_its_labels(tmp_path, monkeypatch):
    _, labels = write_set(tmp_path / "raw")["train"]
    assert load_source(str(tmp_path / "raw")).class_names == tuple("0123456789")
    monkeypatch.setattr(sources, "FASHION_LABELS", sources.zlib.crc32(labels.astype(np.uint8).tobytes()))
    assert load_source(str(tmp_path / "raw")).class_names == sources.CLOTHES
    assert tuple(tfds.builder("fashion_mnist").info.features["label"].names) == sources.CLOTHES


def test_the_name_fashion_mnist_finds_the_installed_files_and_says_so(tmp_path, monkeypatch):
    write_set(tmp_path / "fashion-mnist")
    monkeypatch.setattr(sources, "FASHION_MNIST", tmp_path / "fashion-mnist")
    assert load_source("fashion_mnist").name == f"fashion-mnist (IDX files in {tmp_path / 'fashion-mnist'})"


def content(change):
    return lambda packed: gzip.compress(change(gzip.decompress(packed)))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("train-images-idx3-ubyte.gz", lambda data: data[:-50], "truncated or damaged"),
        ("t10k-labels-idx1-ubyte.gz", lambda data: data[:20] + b"xx" + data[22:], "truncated or damaged"),
        ("t10k-images-idx3-ubyte.gz", content(lambda data: data[:-7]), r"\[2051, 10, 5, 7\], and 343 bytes follow"),
        ("train-labels-idx1-ubyte.gz", content(lambda data: b"PK" + data), "not such an IDX file"),
        ("train-labels-idx1-ubyte.gz", content(lambda data: b""), "not such an IDX file"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, change, message):
    write_set(tmp_path)
    (tmp_path / name).write_bytes(change((tmp_path / name).read_bytes()))
    with pytest.raises(ValueError, match=message) as error:
        load_source(str(tmp_path))
    assert name in str(error.value)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    write_set(tmp_path / "a", parts={"train": 6, "t10k": 4})
    write_set(tmp_path / "b", parts={"train": 8, "t10k": 4})
    (tmp_path / "b" / "train-labels-idx1-ubyte.gz").replace(tmp_path / "a" / "train-labels-idx1-ubyte.gz")
    with pytest.raises(ValueError, match=r"has 6 images, but .*train-labels-idx1-ubyte.gz has 8"):
        load_source(str(tmp_path / "a"))
    with pytest.raises(ValueError, match=r"Expected a file train-labels-idx1-ubyte or .* in .*, got none"):
        load_source(str(tmp_path / "b"))
    write_set(tmp_path / "c", "emnist-digits-")
    with pytest.raises(ValueError, match=r"Expected a file train-images-idx3-ubyte or train-images-idx3-ubyte.gz in"):
        load_source(str(tmp_path / "c"))

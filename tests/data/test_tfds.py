"""Data sets of TensorFlow Datasets, and what is told before training of those that cannot be used as they are."""

import io

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from image_files import turned
from tfds_files import write_own_tfds, write_tfds

from keras_mixer import cli
from keras_mixer.data.decode import image_of
from keras_mixer.data.sources import load_source

features = tfds.features
PIXELS = np.full((8, 8, 3), 100, np.uint8)
IMAGE, LABEL = features.Image(shape=(8, 8, 3)), features.ClassLabel(names=["dark", "light"])


@pytest.fixture
def load(tmp_path):
    def load(data, splits, train="train", test="test", **options):
        write_own_tfds(tmp_path, "own_set", data, splits)
        return load_source("own_set", str(tmp_path), train, test, **options)

    return load


def test_prepared_data_sets_load_by_name_and_by_folder(load, tmp_path):
    dark, light = (np.full((9, 7, 3), value, np.uint8) for value in (60, 180))
    examples = [{"image": io.BytesIO(turned(light)) if i % 2 else dark, "label": i % 2} for i in range(20)]
    features_of = {"image": features.Image(shape=(None, None, 3)), "label": LABEL}
    source = load(features_of, {"train": examples, "test": examples[:8]}, "train[:75%]")
    assert (source.train.size, source.test.size) == (15, 8)
    for element in source.train.elements:
        example = source.train.read(element)
        image = np.asarray(image_of(example))
        assert int(image[0, 0, 0]) == 60 + 120 * int(example["label"])
        assert image.shape == (9, 7, 3)  # as stored, although an EXIF tag says otherwise
    assert load_source(str(tmp_path / "own_set" / "1.0.0")).train.size == 20
    split = load_source("own_set", str(tmp_path), "train[:90%]", "test").train
    parts = [split.shard(4, index) for index in range(4)]
    assert sorted(part.size for part in parts) == [4, 4, 5, 5]
    assert [sum(1 for _ in part.elements) for part in parts] == [part.size for part in parts]
    assert sum(int(element["label"]) for part in parts for element in part.elements) == 9


def test_features_and_splits_that_cannot_be_used_are_named(load, tmp_path):
    examples = {
        name: [{"image": PIXELS, "label": i} for i in [1] + [low] * 7] for name, low in (("train", 0), ("no", -1))
    }
    load({"image": IMAGE, "label": LABEL}, examples, test="train")
    floats, other = features.Image(shape=(8, 8, 1), dtype=np.float32), [{"image": PIXELS[..., :1] / np.float32(255)}]
    write_own_tfds(tmp_path, "floats", {"image": floats}, {"train": other})
    with pytest.raises(ValueError, match=r"Expected an Image of uint8 'image' and .*, got .*float32.* in 'floats'"):
        load_source("floats", str(tmp_path))
    for train, test, told in [
        ("train", "no", r"no labelled images in split 'no' .* from \['no', 'train'\]"),
        ("no[:50%]", "train", r"no labelled images in split 'no\[:50%\]'"),
        ("train", "train[:0]", r"no labelled images in split 'train\[:0\]'"),
        ("train", "val", "no labelled images in split 'val'"),
    ]:
        with pytest.raises(ValueError, match=told):
            load_source("own_set", str(tmp_path), train, test)
    with pytest.raises(ValueError, match=r"'train\[:60%\]' and 'train\[50%:\]' of 'own_set' have images in common"):
        load_source("own_set", str(tmp_path), "train[:60%]", "train[50%:]")
    with pytest.raises(ValueError, match=r"^imagenet2012 cannot be read or prepared: Manual directory"):
        load_source("imagenet2012", str(tmp_path))


def test_features_need_no_labels_and_no_other_split(load, tiny_mixer, tmp_path):
    color = features.ClassLabel(names=["red", "green", "blue"])
    deep = features.Image(shape=(8, 8, 1), dtype=np.uint16)
    examples = [{"image": np.full((8, 8, 1), 100 << 8, np.uint16), "label": -1, "color": i % 3} for i in range(9)]
    source = load({"image": deep, "label": LABEL, "color": color}, {"more": examples}, "more", "more", label="color")
    assert source.class_names == ("red", "green", "blue")
    assert np.unique(image_of(next(iter(source.train.elements)))).tolist() == [100]
    tiny_mixer(num_blocks=1).save(tmp_path / "model.keras")
    command = ["features", f"{tmp_path}/model.keras", "own_set", "--data-dir", str(tmp_path), "--layer", "stem"]
    command += ["--part", "train", "--train-split", "more"]
    assert cli.main([*command, "--label", "color", "--output", f"{tmp_path}/colors.npz"]) == 0
    assert sorted(np.load(tmp_path / "colors.npz")["labels"]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert cli.main([*command, "--output", f"{tmp_path}/unlabelled.npz"]) == 0
    assert np.load(tmp_path / "unlabelled.npz")["labels"].tolist() == [-1] * 9


def test_an_older_version_on_disk_is_used_and_named(tmp_path):
    examples = [{"image": np.zeros((32, 32, 3), np.uint8), "label": i, "id": str(i)} for i in range(3)]
    write_tfds(tmp_path, "svhn_cropped", {"train": examples, "test": examples})
    (folder,) = (tmp_path / "svhn_cropped").iterdir()
    newest = folder.name
    folder.rename(folder.with_name("1.0.0"))
    info = folder.with_name("1.0.0") / "dataset_info.json"
    info.write_text(info.read_text().replace(f'"version": "{newest}"', '"version": "1.0.0"'))
    said = []
    assert load_source("svhn_cropped", str(tmp_path), log=said.append).train.size == 3
    assert said == [f"Version 1.0.0 of svhn_cropped is on disk and is used; the newest is {newest}."]


def test_an_unreachable_folder_is_told_in_one_line(monkeypatch):
    def unreachable(name, data_dir):
        try:
            raise tf.errors.UnavailableError(None, None, "Could not resolve host\n\t when reading gs://bucket")
        except tf.errors.OpError as error:
            raise RuntimeError("UnavailableError: Failed to construct dataset") from error  # as TFDS does

    monkeypatch.setattr(tfds, "builder", unreachable)
    with pytest.raises(ValueError, match=r"^cifar10 cannot be read .*: Could not resolve host when reading gs:"):
        load_source("cifar10", "gs://bucket")

import io

import numpy as np
import pytest
from image_files import turned, write_folder
from tfds_files import write_own_tfds

from keras_mixer.data.decode import decode_image
from keras_mixer.data.sources import load_source
from keras_mixer.data.splits import held_out_places, hold_out, stratified_split


def test_digits_are_the_1797_of_scikit_learn_split_for_ever_the_same():
    source = load_source("digits")
    again = load_source("digits")
    assert source.class_names == tuple("0123456789")
    assert source.train.size + source.test.size == 1797
    assert 0.195 < source.test.size / 1797 < 0.205
    images = [
        element["image"] for split in (source.train, source.test) for element in split.elements.as_numpy_iterator()
    ]
    assert len(images) == 1797
    first, second = (next(iter(s.test.elements.as_numpy_iterator())) for s in (source, again))
    np.testing.assert_array_equal(first["image"], second["image"])
    assert images[0].shape == (8, 8, 1)
    assert set(np.unique(images)) == {round(level * 255 / 16) for level in range(17)}


def test_stratified_split_keeps_the_shares_of_the_classes_and_the_seed_chooses():
    labels = np.repeat([0, 1, 2], [100, 50, 3])
    splits = [stratified_split(labels, 0.2, seed) for seed in (0, 0, 1)]
    for train, test in splits:
        assert sorted([*train, *test]) == list(range(153))
        assert np.bincount(labels[test]).tolist() == [20, 10, 1]
    tests = [test.tolist() for _, test in splits]
    assert tests[0] == tests[1] != tests[2]
    with pytest.raises(ValueError, match="3 images cannot be split"):
        stratified_split([0, 0, 1], 0.5)
    assert (load_source("digits").test.labels() != load_source("digits", split_seed=1).test.labels()).any()


@pytest.mark.parametrize("parts", [("train", "test"), ()])
def test_an_image_folder_becomes_a_source(tmp_path, parts):
    source = load_source(str(write_folder(tmp_path, parts=parts)), test_fraction=0.5)
    assert source.class_names == ("circle", "stripe")
    assert (source.train.size, source.test.size) == ((12, 12) if parts else (6, 6))
    for element in source.train.elements:
        example = source.train.read(element)
        pixels = np.asarray(decode_image(example["image"]))
        assert pixels.mean((0, 1)).argmax() == int(example["label"])


def test_a_class_of_the_test_part_alone_is_refused(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "test" / "zebra").mkdir()
    with pytest.raises(ValueError, match="lacks: zebra"):
        load_source(str(tmp_path))


@pytest.fixture(scope="module")
def prepared_dataset(tmp_path_factory):
    """A TensorFlow Datasets set on disk, written through TFDS itself: digits 0 and 1, two splits."""
    import tensorflow_datasets as tfds

    root = tmp_path_factory.mktemp("tfds")
    grey = [np.full((9, 7, 3), value, np.uint8) for value in (60, 180)]

    def examples(count):
        images = [lambda: grey[0], lambda: io.BytesIO(turned(grey[1]))]
        return [{"image": images[i % 2](), "label": i % 2} for i in range(count)]

    image, label = tfds.features.Image(shape=(None, None, 3)), tfds.features.ClassLabel(names=["dark", "light"])
    splits = {"train": examples(20), "test": examples(8)}
    write_own_tfds(root, "two_greys", {"image": image, "label": label}, splits)
    return root


def test_prepared_tensorflow_datasets_load_by_name(prepared_dataset):
    source = load_source("two_greys", str(prepared_dataset), "train[:75%]", "test")
    assert source.class_names == ("dark", "light")
    assert (source.train.size, source.test.size) == (15, 8)
    for element in source.train.elements:
        example = source.train.read(element)
        image = np.asarray(decode_image(example["image"]))
        assert int(image[0, 0, 0]) == 60 + 120 * int(example["label"])
        assert image.shape == (9, 7, 3)  # as stored, although an EXIF tag says otherwise
    assert load_source(str(prepared_dataset / "two_greys" / "1.0.0")).train.size == 20

    with pytest.raises(
        ValueError, match=r"Split 'validation' .* does not exist. Choose another of \['test', 'train'\]"
    ):
        load_source("two_greys", str(prepared_dataset), "train", "validation")
    split = load_source("two_greys", str(prepared_dataset), "train[:90%]", "test").train
    parts = [split.shard(4, index) for index in range(4)]
    assert sorted(part.size for part in parts) == [4, 4, 5, 5]
    assert [sum(1 for _ in part.elements) for part in parts] == [part.size for part in parts]
    assert sum(int(element["label"]) for part in parts for element in part.elements) == 9


@pytest.mark.parametrize("share", [0.1, 0.25, 1 / 3])
def test_holding_out_takes_evenly_spaced_examples_away_from_training(share):
    source = load_source("digits")
    held = hold_out(source, share)
    train, test = (
        [element["image"].tobytes() for element in split.elements.as_numpy_iterator()]
        for split in (held.train, held.test)
    )
    assert (len(train), len(test)) == (held.train.size, held.test.size)
    assert len(test) == int(source.train.size * share)
    everything = [element["image"].tobytes() for element in source.train.elements.as_numpy_iterator()]
    assert sorted(train + test) == sorted(everything)
    places = np.flatnonzero(np.isin(everything, test))
    assert np.diff(places).max() <= np.ceil(source.train.size / len(test))


def test_a_rounded_fraction_holds_out_the_same_examples():
    for size, fraction, rounded in ((60_000, 1 / 12, 0.0833333), (1437, 1 / 3, 0.33333)):
        exact = held_out_places(size, fraction)
        assert exact.sum() == size * fraction
        np.testing.assert_array_equal(exact, held_out_places(size, rounded))


def test_holding_out_keeps_files_in_step(tmp_path):
    source = load_source(str(write_folder(tmp_path / "images", images_per_class=8)))
    held = hold_out(source, 0.25)
    paths = [element["path"].decode() for element in held.train.elements.as_numpy_iterator()]
    assert paths == list(held.train.files)
    with pytest.raises(ValueError, match="leaves nothing"):
        hold_out(source, 0.001)

"""The caller's data as a source: what is accepted, what is refused, and that the examples are the same."""

import grain
import numpy as np
import pytest
import tensorflow as tf
from image_files import encode

from keras_mixer.data.decode import image_of
from keras_mixer.data.sources import load_source
from keras_mixer.data.splits import naming_damaged_files
from keras_mixer.data.user_data import own_source

IMAGES = np.repeat(np.random.default_rng(0).integers(0, 256, (10, 6, 5, 1), np.uint8), 3, -1)  # gray becomes RGB
LABELS = np.arange(10) % 3
ONE_HOT = np.eye(3)[LABELS]
PNG = [encode(image, "PNG") for image in IMAGES]


def records(images=IMAGES, labels=LABELS):
    return grain.MapDataset.source(list(zip(images, labels, strict=True)))


def dataset(images=IMAGES, labels=LABELS):
    return tf.data.Dataset.from_tensor_slices((images, labels))


def examples(split):
    found = [split.read(element) for element in split.elements]
    return np.array([image_of(one) for one in found]), np.array([one["label"] for one in found])


@pytest.mark.parametrize(
    "data",
    [
        (IMAGES, LABELS[:, None].astype(np.uint8)),  # as keras.datasets.cifar10
        (IMAGES[..., 0], LABELS),
        (PNG, list(LABELS)),
        (np.array(PNG, dtype=object), LABELS),
        dataset(),
        dataset(PNG),
        dataset(IMAGES[..., :1]),
        records(IMAGES[..., 0]),
        records(PNG, LABELS.tolist()),
        list(zip(PNG, LABELS[:, None], strict=True)),
        dataset(labels=LABELS[:, None].astype(np.uint8)),
    ],
)
def test_every_form_gives_the_same_examples(data):
    source, _ = own_source(data, data, classes=3)
    images, labels = examples(source.test)
    np.testing.assert_array_equal(images, IMAGES)
    np.testing.assert_array_equal(labels, LABELS)
    np.testing.assert_array_equal(source.test.labels(), LABELS)


def test_arrays_are_split_by_class_and_not_copied(tmp_path):
    np.save(tmp_path / "images.npy", IMAGES)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r+")
    source, _ = own_source((mapped, LABELS), class_names=("a", "b", "c"), test_fraction=0.4)
    assert (source.train.size, source.test.size, set(source.test.labels())) == (6, 4, {0, 1, 2})
    known = {image.tobytes(): label for image, label in zip(IMAGES, LABELS, strict=True)}
    for images, labels in map(examples, (source.train, source.test)):
        assert [known.pop(image.tobytes()) for image in images] == list(labels)
    mapped[:] = 7
    assert (examples(source.train)[0] == 7).all()


def test_the_description_changes_with_the_data_and_what_may_be_a_mistake_is_said():
    def told(train, **options):
        lines = []
        return own_source(train, train, log=lines.append, **({"classes": 3} | options))[1], *lines

    changed = IMAGES.copy()
    changed[5, 0, 0, 0] ^= 1
    others = told((changed, LABELS)), told((IMAGES, LABELS[::-1])), told((IMAGES, LABELS), class_names=tuple("abc"))
    assert len({told((IMAGES, LABELS)), told((IMAGES.copy(), LABELS)), *others}) == 4
    shuffled, line = told(dataset().shuffle(10, seed=1))
    assert shuffled == "own data (train: 10 images, test: 10 images, 3 classes " + shuffled[-9:]
    cropped = {"__len__": lambda own: 10, "__getitem__": lambda own, i: (IMAGES[np.random.randint(10)], LABELS[i])}
    assert told(type("Cropped", (), cropped)()) == told(type("Cropped", (), cropped)())  # at random, in the same order
    assert line.startswith("Two passes over train and test start with different examples: parts of one shuffled")
    assert "No training image has the label 0; labels are counted" in told((IMAGES, LABELS + 1), classes=4)[1]


@pytest.mark.parametrize(
    ("train", "options", "message"),
    [
        ((IMAGES, LABELS[:4]), {}, "train has 10 images but 4 labels"),
        ((IMAGES / 255, LABELS), {}, r"got float64 of shape \(6, 5, 3\). Convert .*np.round\(255 \* images\)"),
        ([{"image": IMAGES[0], "label": 0}], {"classes": 3}, "examples; the first of train is another dict"),
        ((IMAGES, ONE_HOT), {}, r"of shape \(10, 3\). One-hot labels become integers"),
        ((IMAGES, np.array(list("abc"))[LABELS]), {}, r"got <U1 .* names by np.unique"),
        ((IMAGES, LABELS - 1), {}, "Expected labels from 0 to 1 in train, got -1 to 1"),
        ((IMAGES, LABELS), {"classes": 2}, "Expected labels from 0 to 1 in train, got 0 to 2"),
        (dataset().repeat(), {"classes": 3}, r"train is empty, infinite, or of unknown size. Remove .repeat\(\)"),
        (dataset().filter(lambda *_: True), {"classes": 3}, "of unknown size.*assert_cardinality"),
        (dataset(PNG).batch(2), {}, r"Split batches by .unbatch\(\)"),
        (dataset().map(lambda image, label: {"image": image}), {"classes": 3}, "the first of train is another dict"),
        (dataset().shuffle(10, seed=1), {"classes": 3, "needs_order": True}, "Two passes over train start"),
        (dataset(), {}, "number of classes is known only for arrays"),
    ],
)
def test_unusable_data_are_refused_with_the_remedy(train, options, message):
    with pytest.raises(ValueError, match=message):
        own_source(train, (IMAGES, LABELS), **options)


def test_data_that_must_be_given_again_or_split_are_asked_for():
    with pytest.raises(ValueError, match=r"only arrays are split automatically. Pass test="):
        own_source(dataset(), classes=3)
    with pytest.raises(ValueError, match="two or more classes, got 1"):
        own_source((IMAGES, 0 * LABELS))
    with pytest.raises(ValueError, match=r"passed to keras_mixer.fit"):  # the data of a run on them
        load_source("own data (train: 10 images)")


def test_an_example_that_cannot_be_used_is_named_by_its_number():
    for train, number, reason in [
        (dataset(labels=[*LABELS[:2], 3, *LABELS[3:]]), 2, r".*Expected labels from 0 to 2, got\] \[3\]"),
        (([*PNG[:4], PNG[4][:-30], *PNG[5:]], LABELS), 4, "Invalid PNG data"),
        (records([*PNG[:7], b"no image", *PNG[8:]]), 7, ".*not an image that Pillow can read"),
    ]:
        split = own_source(train, (IMAGES, LABELS), classes=3)[0].train
        message = f"An image cannot be used: image {number} of train, counted from 0: {reason}"
        with pytest.raises(ValueError, match=message), naming_damaged_files(split):
            list(split.elements.map(lambda element, split=split: image_of(split.read(element))))

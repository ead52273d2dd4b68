"""Training images prepared a thousand at a time equal those prepared one by one, bit for bit."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from keras_mixer.data import pipeline
from keras_mixer.data.draws import Streams, distorted_boxes, fold_in, split, uniform
from keras_mixer.data.moves import MOVES
from keras_mixer.data.batches import training_batches
from keras_mixer.data.settings import Augmentation
from keras_mixer.data.small_images import small_images
from keras_mixer.data.splits import Split

MOVING = Augmentation(
    crop_area=(0.3, 1.0),
    crop_aspect=(0.8, 1.2),
    randaugment_num_ops=2,
    randaugment_level=15.0,
    randaugment_operations=tuple(MOVES),
)
OPTIONS = {"classes": 10, "image_size": (17, 24), "batch_size": 8, "seed": -5}


def images_split(images, encode=tf.io.encode_png):
    elements = {"image": np.array([encode(image).numpy() for image in images]), "label": np.arange(len(images)) % 10}
    return Split(len(images), tf.data.Dataset.from_tensor_slices(elements), read=lambda element: element)


@pytest.fixture(scope="module")
def photos():
    return images_split(np.random.default_rng(0).integers(0, 256, (40, 13, 30, 3), np.uint8))


@pytest.fixture(scope="module")
def digits():
    return images_split(np.random.default_rng(1).integers(0, 256, (40, 8, 8, 1), np.uint8))


def one_by_one(monkeypatch):
    monkeypatch.setattr(pipeline, "small_images", lambda *options: None)


@pytest.mark.parametrize(
    ("name", "augmentation", "options"),
    [
        ("photos", MOVING, {"start_step": 4}),
        ("digits", Augmentation((0.2, 0.9), None, mixup_alpha=0.3), {"shards": 2}),
    ],
)
def test_batches_equal_those_of_images_prepared_one_by_one(name, augmentation, options, request, monkeypatch):
    part = request.getfixturevalue(name)
    options = OPTIONS | {"augmentation": augmentation} | options
    assert small_images(part, options["image_size"], augmentation) is not None
    together = list(training_batches(part, **options).take(12).as_numpy_iterator())  # more than two epochs
    one_by_one(monkeypatch)
    alone = list(training_batches(part, **options).take(12).as_numpy_iterator())
    for batch, other in zip(together, alone, strict=True):
        for tensor, other_tensor in zip(batch, other, strict=True):
            np.testing.assert_array_equal(tensor, other_tensor)


def test_images_are_decoded_once_and_grey_ones_kept_in_one_channel(digits, photos):
    once = small_images(digits, (16, 16), MOVING)
    assert small_images(digits, (16, 16), MOVING) is once
    assert once.images.shape == (40, 8, 8, 1)
    assert small_images(photos, (16, 16), MOVING).images.shape == (40, 13, 30, 3)


def test_other_images_are_prepared_one_by_one(digits):
    noise = np.random.default_rng(2).integers(0, 256, (3, 65, 20, 3), np.uint8)
    mixed_sizes = [noise[0, :20], noise[1, :30], noise[2, :20]]
    for part in (
        images_split(noise),
        images_split(mixed_sizes),
        images_split(noise[:, :20], tf.io.encode_jpeg),
        dataclasses.replace(digits, changes=True),
        dataclasses.replace(
            digits, read=lambda element: {"image": tf.constant(b"no image"), "label": element["label"]}
        ),
    ):
        assert small_images(part, (16, 16), MOVING) is None
    assert small_images(digits, (224, 224), MOVING) is None
    assert small_images(digits, (16, 16), dataclasses.replace(MOVING, randaugment_operations=None)) is None


def test_numbers_are_those_of_tensorflow():
    seeds = np.random.default_rng(3).integers(-(2**31), 2**31, (20, 2)).astype(np.int32)
    seeds[:2] = [[0, 0], [-1, 2**31 - 1]]
    words, parts, folded = Streams(seeds).words(), split(seeds), fold_in(seeds, np.arange(20))
    for i, seed in enumerate(seeds):
        np.testing.assert_array_equal(tf.random.stateless_uniform((4,), seed), uniform(words[i]))
        np.testing.assert_array_equal(tf.random.split(tf.constant(seed)), [part[i] for part in parts])
        np.testing.assert_array_equal(tf.random.fold_in(tf.constant(seed), i), folded[i])


@pytest.mark.parametrize(
    ("sides", "area", "aspect"),
    [((28, 28), (0.05, 1.0), (3 / 4, 4 / 3)), ((8, 8), (0.9, 1.0), (0.9, 1.1)), ((2, 9), (0.3, 0.4), (0.5, 2.0))],
)
def test_boxes_are_those_of_tensorflow(sides, area, aspect):
    seeds = np.random.default_rng(4).integers(-(2**31), 2**31, (100, 2)).astype(np.int32)
    expected = [
        tf.image.stateless_sample_distorted_bounding_box(
            [*sides, 3],
            tf.zeros((1, 0, 4)),
            seed,
            min_object_covered=0.0,
            aspect_ratio_range=aspect,
            area_range=area,
            use_image_if_no_bounding_boxes=True,
        )
        for seed in seeds
    ]
    expected = [[*begin[:2], *size[:2]] for begin, size, _ in expected]
    np.testing.assert_array_equal(distorted_boxes(seeds, sides, area, aspect), expected)

import math

import numpy as np
import pytest
import tensorflow as tf
from image_files import photographs
from PIL import Image, ImageEnhance, ImageOps

from keras_mixer.data.batch_mixing import cutmix, mixup
from keras_mixer.data.randaugment import OPERATIONS, GeometryParameters, rand_augment

STRENGTHS = (0.3, 1.0, 1.5, 2.0)  # levels 3, 10, 15, 20


@pytest.fixture(scope="module", params=[0, 1])
def photograph(request):
    image = photographs()[request.param][100:260, 200:420]
    return image // 2 + 40  # a reduced range, so that stretching shows


def geometry(sign=1.0, fill=128):
    return GeometryParameters(tf.constant(sign), tf.constant([1, 2]), fill)


def affine(image, matrix):
    pil = Image.fromarray(image)
    return np.asarray(
        pil.transform(pil.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=(128,) * 3)
    )


def enhanced(kind):
    return lambda pil, strength: kind(pil).enhance(strength * 1.8 + 0.1)


PILLOW = {
    "AutoContrast": lambda pil, strength: ImageOps.autocontrast(pil),
    "Equalize": lambda pil, strength: ImageOps.equalize(pil),
    "Invert": lambda pil, strength: ImageOps.invert(pil),
    "Posterize": lambda pil, strength: pil.point(lambda v: v & ~(2 ** (8 - min(int(strength * 4), 8)) - 1)),
    "Solarize": lambda pil, strength: ImageOps.solarize(pil, int(strength * 256)),
    "Color": enhanced(ImageEnhance.Color),
    "Contrast": enhanced(ImageEnhance.Contrast),
    "Brightness": enhanced(ImageEnhance.Brightness),
    "Sharpness": enhanced(ImageEnhance.Sharpness),
    "SolarizeAdd": lambda pil, strength: pil.point(lambda v: min(v + int(strength * 110), 255) if v < 128 else v),
}


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", PILLOW)
def test_colour_operations_equal_pillow(photograph, name, strength):
    ours = np.asarray(OPERATIONS[name](tf.constant(photograph), strength, geometry())).astype(int)
    theirs = np.asarray(PILLOW[name](Image.fromarray(photograph), strength)).astype(int)
    difference = np.abs(ours - theirs)
    assert difference.max() <= 1  # rounding of a blend
    assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("strength", STRENGTHS)
def test_geometric_operations_equal_pillow(photograph, strength, sign):
    height, width = photograph.shape[:2]
    shift_x, shift_y = (np.round(np.float32(sign * strength * 100) * side / 224) for side in (width, height))
    expected = {
        "ShearX": (1, sign * strength * 0.3, 0, 0, 1, 0),
        "ShearY": (1, 0, 0, sign * strength * 0.3, 1, 0),
        "TranslateX": (1, 0, shift_x, 0, 1, 0),
        "TranslateY": (1, 0, 0, 0, 1, shift_y),
    }
    for name, matrix in expected.items():
        ours = np.asarray(OPERATIONS[name](tf.constant(photograph), strength, geometry(sign)))
        if name.startswith("Translate"):  # whole pixels: nothing to round
            np.testing.assert_array_equal(ours, affine(photograph, matrix), name)
        else:  # Pillow samples at pixel centres, half a pixel aside
            theirs = affine(photograph, matrix)
            assert np.abs(ours.astype(int) - theirs).mean() < 6, name


def projected(image, matrix):
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack([*[tf.cast(entry, tf.float32) for entry in matrix], 0.0, 0.0])[None],
        output_shape=tf.shape(image)[:2],
        fill_value=128.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )[0]


@pytest.mark.parametrize("strength", STRENGTHS)
def test_moved_pixels_are_those_of_tensorflows_own_operation(photograph, strength):
    def rotated(image, sign):
        cos, sin = tf.cos(sign * strength * math.radians(30)), tf.sin(sign * strength * math.radians(30))
        y, x = ((side - 1) / 2 for side in photograph.shape[:2])
        return projected(image, [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y])

    theirs = {
        "Rotate": rotated,
        "ShearX": lambda image, sign: projected(image, [1, sign * strength * 0.3, 0, 0, 1, 0]),
        "ShearY": lambda image, sign: projected(image, [1, 0, 0, sign * strength * 0.3, 1, 0]),
    }
    for name, their in theirs.items():  # in graphs, whose optimiser must not round elsewhere

        def our(image, sign, name=name):
            return OPERATIONS[name](image, strength, GeometryParameters(sign, tf.constant([1, 2]), 128))

        for sign in (tf.constant(1.0), tf.constant(-1.0)):
            pictures = [tf.function(function)(tf.constant(photograph), sign) for function in (our, their)]
            np.testing.assert_array_equal(*pictures, name)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_rotation_equals_pillow(photograph, strength):
    ours = np.asarray(OPERATIONS["Rotate"](tf.constant(photograph), strength, geometry())).astype(int)
    pil = Image.fromarray(photograph)
    theirs = np.asarray(pil.rotate(strength * 30, Image.Resampling.NEAREST, fillcolor=(128,) * 3)).astype(int)
    assert (np.abs(ours - theirs).max(-1) > 0).mean() < 0.01


def test_cutout_is_a_grey_square_of_the_right_size(photograph):
    image = tf.constant(photograph[:160, :160])
    for seed in range(20):
        drawn = GeometryParameters(tf.constant(1.0), tf.constant([0, seed]), 128)
        cut = np.asarray(OPERATIONS["Cutout"](image, 1.0, drawn))
        changed = (cut != image.numpy()).any(-1)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        assert np.ptp(rows) < 2 * int(40 * 160 / 224)
        assert np.ptp(columns) < 2 * int(40 * 160 / 224)
        assert (cut[changed] == 128).all()


def test_a_flat_picture_stays_flat():
    flat = tf.fill((8, 8, 3), tf.constant(77, tf.uint8))
    for name in ("AutoContrast", "Equalize", "Contrast", "Color", "Sharpness"):
        np.testing.assert_array_equal(OPERATIONS[name](flat, 1.5, geometry()), flat, name)


def test_all_sixteen_operations_of_the_paper_are_drawn_about_equally_often():
    assert len(OPERATIONS) == 16
    image = photographs()[0][:32, :32]
    one_step = tf.function(lambda seed: rand_augment(tf.constant(image), seed, num_ops=1, level=15.0))
    pictures = {np.asarray(one_step(tf.constant([0, seed]))).tobytes() for seed in range(150)}
    # 4 geometric and 1 rotation in two directions, cut-outs all different, the other ten always the same
    assert 15 <= len(pictures) <= 10 + 10 + 40


def test_same_seed_same_picture_in_and_out_of_a_graph():
    image = tf.constant(photographs()[0][:48, :64])
    graph = tf.function(lambda seed: rand_augment(image, seed, num_ops=2, level=9.0))
    for seed in range(12):
        seed = tf.constant([3, seed])
        np.testing.assert_array_equal(graph(seed), rand_augment(image, seed, num_ops=2, level=9.0))


def test_fill_is_the_grey_that_appears():
    image = tf.fill((32, 32, 3), tf.constant(200, tf.uint8))
    moved = np.asarray(rand_augment(image, tf.constant([0, 1]), 1, 10.0, ["TranslateX"], fill=7))
    assert set(np.unique(moved)) == {7, 200}


def test_unknown_operations_are_refused():
    with pytest.raises(ValueError, match=r"Swirl.*AutoContrast"):
        rand_augment(tf.zeros((8, 8, 3), tf.uint8), tf.constant([0, 1]), operations=["Swirl"])


@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0])
def test_mixup_uses_one_coefficient_of_at_least_a_half(alpha):
    images = np.zeros((4, 2, 2, 3), np.float32)
    images[:] = np.arange(4)[:, None, None, None] * 10
    labels = np.eye(4, dtype=np.float32)
    shares = []
    for seed in range(300):
        mixed, mixed_labels = (np.asarray(x) for x in mixup(images, labels, tf.constant([seed, 0]), alpha))
        share = mixed_labels[0, 0]
        np.testing.assert_allclose(mixed_labels, share * labels + (1 - share) * np.roll(labels, 1, 0), atol=1e-6)
        np.testing.assert_allclose(mixed, share * images + (1 - share) * np.roll(images, 1, 0), atol=1e-5)
        np.testing.assert_allclose(mixed_labels.sum(1), 1, atol=1e-6)
        shares.append(share)
    reference = np.random.default_rng(0).beta(alpha, alpha, 100_000)
    expected = np.maximum(reference, 1 - reference)
    assert min(shares) >= 0.5
    assert abs(np.mean(shares) - expected.mean()) < 4 * expected.std() / len(shares) ** 0.5


def test_mixup_survives_coefficients_that_underflow():
    images, labels = np.ones((2, 2, 2, 3), np.float32), np.eye(2, dtype=np.float32)
    for seed in range(50):
        mixed, mixed_labels = mixup(images, labels, tf.constant([seed, 0]), 1e-4)
        assert np.isfinite(mixed).all()
        np.testing.assert_allclose(np.asarray(mixed_labels).sum(1), 1)


def test_cutmix_takes_one_rectangle_from_the_neighbour_and_mixes_labels_by_area():
    images = np.broadcast_to(np.arange(1.0, 5.0)[:, None, None, None], (4, 24, 40, 3)).astype(np.float32)
    labels = np.eye(4, dtype=np.float32)
    areas = []
    for seed in range(300):
        mixed, mixed_labels = (np.asarray(x) for x in cutmix(images, labels, tf.constant([seed, 0]), 1.0))
        inside = mixed[0, :, :, 0] == 4  # the neighbour of the first is the last
        rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
        assert inside.sum() == len(rows) * len(columns)  # one rectangle
        neighbours = np.roll(images, 1, axis=0)
        np.testing.assert_array_equal(mixed, np.where(inside[None, :, :, None], neighbours, images))
        share = 1 - inside.mean()
        np.testing.assert_allclose(mixed_labels, share * labels + (1 - share) * np.roll(labels, 1, 0), atol=1e-6)
        areas.append(inside.mean())
    assert min(areas) < 0.02
    assert max(areas) > 0.8
    reference = np.random.default_rng(0)
    cut, y, x = (reference.uniform(size=100_000) for _ in range(3))
    sides = [np.minimum(c + cut**0.5 / 2, 1) - np.maximum(c - cut**0.5 / 2, 0) for c in (y, x)]
    expected = sides[0] * sides[1]
    assert abs(np.mean(areas) - expected.mean()) < 4 * expected.std() / len(areas) ** 0.5

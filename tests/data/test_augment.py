import math

import numpy as np
import pytest
import tensorflow as tf
from image_files import photographs
from PIL import Image, ImageEnhance, ImageOps

from keras_mixer.data.augment import crop_and_flip, crop_windows, cutmix, mixup, operations_on, rand_augment
from keras_mixer.training.recipe import RANDAUGMENT_OPERATIONS

PHOTOGRAPH = photographs()[0][100:260, 200:420] // 2 + 40  # a reduced range, so that stretching shows
STRENGTHS = (0.3, 1.0, 1.5, 2.0)  # levels 3, 10, 15, 20
SIGN = {-1.0: 0.2, 1.0: 0.7}  # a number for it


def changed(name, image, strength, sign=1.0, place=(0.3, 0.6)):
    """One operation on one picture."""
    numbers = tf.constant([[SIGN[sign], *place]])
    return operations_on(tf.constant(image)[None], numbers, strength * 10, 128)[name]()[0].numpy()


PILLOW = {
    "AutoContrast": lambda pil, strength: ImageOps.autocontrast(pil),
    "Equalize": lambda pil, strength: ImageOps.equalize(pil),
    "Invert": lambda pil, strength: ImageOps.invert(pil),
    "Posterize": lambda pil, strength: pil.point(lambda v: v & ~(2 ** (8 - min(int(strength * 4), 8)) - 1)),
    "Solarize": lambda pil, strength: ImageOps.solarize(pil, int(strength * 256)),
    "Color": lambda pil, strength: ImageEnhance.Color(pil).enhance(strength * 1.8 + 0.1),
    "Contrast": lambda pil, strength: ImageEnhance.Contrast(pil).enhance(strength * 1.8 + 0.1),
    "Brightness": lambda pil, strength: ImageEnhance.Brightness(pil).enhance(strength * 1.8 + 0.1),
    "Sharpness": lambda pil, strength: ImageEnhance.Sharpness(pil).enhance(strength * 1.8 + 0.1),
    "SolarizeAdd": lambda pil, strength: pil.point(lambda v: min(v + int(strength * 110), 255) if v < 128 else v),
}
BLENDED = ("AutoContrast", "Color", "Contrast", "Brightness", "Sharpness")  # a blend may be rounded the other way


@pytest.mark.parametrize("name", PILLOW)
def test_color_operations_equal_pillow(name):
    flat = np.full((8, 8, 3), 77, np.uint8)
    for strength in STRENGTHS:
        for image in (PHOTOGRAPH, flat):
            theirs = np.asarray(PILLOW[name](Image.fromarray(image), strength)).astype(int)
            difference = np.abs(changed(name, image, strength) - theirs)
            assert difference.max() <= (name in BLENDED)
            assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize("strength", STRENGTHS[1:])
def test_moved_pictures_are_those_of_pillow_and_of_tensorflows_own_operation(strength):
    pil, images, (height, width) = Image.fromarray(PHOTOGRAPH), tf.constant(PHOTOGRAPH)[None], PHOTOGRAPH.shape[:2]
    how = {"resample": Image.Resampling.NEAREST, "fillcolor": (128,) * 3}
    for sign in (1.0, -1.0):
        signs = tf.constant([sign])
        for name, axis in {"TranslateX": 0, "TranslateY": 1}.items():
            shift = np.round(np.float32(sign * strength * 100) * pil.size[axis] / 224)
            matrix = (1, 0, shift * (1 - axis), 0, 1, shift * axis)
            moved = pil.transform(pil.size, Image.Transform.AFFINE, matrix, **how)
            np.testing.assert_array_equal(changed(name, PHOTOGRAPH, strength, sign), moved, name)
        angle, shear = signs[0] * strength * math.radians(30), signs[0] * strength * 0.3
        (cos, sin), (y, x) = (tf.cos(angle), tf.sin(angle)), ((side - 1) / 2 for side in (height, width))
        turned = pil.rotate(sign * strength * 30, **how)
        assert (changed("Rotate", PHOTOGRAPH, strength, sign) != np.asarray(turned)).any(-1).mean() < 0.01
        for name, matrix in {
            "Rotate": [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y],
            "ShearX": [1, shear, 0, 0, 1, 0],
            "ShearY": [1, 0, 0, shear, 1, 0],
        }.items():  # in graphs, whose optimizer must not round elsewhere
            numbers = tf.constant([[SIGN[sign], 0.0, 0.0]])
            ours = tf.function(operations_on(images, numbers, strength * 10, 128)[name])()
            transforms = tf.stack([*(tf.cast(entry, tf.float32) for entry in matrix), 0.0, 0.0])[None]
            filled = {"fill_value": 128.0, "interpolation": "NEAREST", "fill_mode": "CONSTANT"}
            theirs = tf.raw_ops.ImageProjectiveTransformV3(
                images=images, transforms=transforms, output_shape=[height, width], **filled
            )
            np.testing.assert_array_equal(ours, theirs, name)


def test_what_appears_and_what_is_cut_out_is_filled():
    image = np.full((160, 160, 3), 200, np.uint8)
    expected = image.copy()
    expected[80 - 28 : 80 + 28, 0 : 16 + 28] = 128  # 40 pixels of 224 to each side; what sticks out is cut off
    np.testing.assert_array_equal(changed("Cutout", image, 1.0, place=(0.5, 0.1)), expected)
    moved = rand_augment(image[None], tf.fill((1, 4), 0.5), 10.0, ["TranslateX"], fill=7)
    assert set(np.unique(moved)) == {7, 200}


def test_pictures_of_a_batch_are_those_of_one_by_one():
    images = np.stack([picture[:32, :48] for picture in photographs()] * 8)
    numbers = np.random.default_rng(0).random((16, 8), np.float32)
    numbers[:, 0] = (np.arange(16) + 0.5) / 16  # all sixteen
    for image, its_numbers, expected in zip(images, numbers, tf.function(rand_augment)(images, numbers), strict=True):
        np.testing.assert_array_equal(rand_augment(image[None], its_numbers[None])[0], expected)
        for choice, sign, *place in its_numbers.reshape(2, 4):
            image = changed(RANDAUGMENT_OPERATIONS[int(choice * 16)], image, 1.5, -1.0 if sign < 0.5 else 1.0, place)
        np.testing.assert_array_equal(image, expected)


def test_crops_are_where_the_numbers_say():
    sides = (60, 80)
    numbers = np.array([[0, 0, 0, 0], [1, 0.5, 0, 0.999], [0.5, 0.5, 0.5, 0.5]], np.float32)
    windows = crop_windows(numbers, sides, (0.25, 1.0), (3 / 4, 4 / 3)).numpy()
    smallest = np.sqrt(0.25 * 60 * 80 / (3 / 4)), np.sqrt(0.25 * 60 * 80 * (3 / 4))
    assert windows[0].tolist() == [0, 0, *np.round(smallest)]
    assert windows[1].tolist() == [0, 80 - 69, 60, 69]  # sqrt(4800) = 69.3, cut where it would stick out
    assert windows[2].tolist() == [(60 - 55 + 1) // 2, (80 - 55 + 1) // 2, 55, 55]
    same = crop_windows(numbers, sides, (0.25, 1.0), None).numpy()
    assert same[0].tolist() == [0, 0, 30, 40]  # the aspect ratio of the image


def test_crops_are_resized_as_by_tensorflow_and_mirrored():
    image = photographs()[0][:60, :80]
    windows = np.array([[0, 0, 60, 80], [10, 20, 31, 17], [59, 79, 1, 1], [5, 3, 40, 70]], np.int32)
    flips = np.array([False, True, False, True])
    cropped = crop_and_flip(np.stack([image] * 4), windows, flips, (24, 32)).numpy().astype(int)
    for (top, left, height, width), flip, ours in zip(windows, flips, cropped, strict=True):
        resized = tf.image.resize(image[top : top + height, left : left + width], (24, 32)).numpy()
        inside = np.s_[3:-3, 3:-3]  # at an edge of the window, a sample also sees the pixel beyond
        theirs = np.floor(resized[:, ::-1] if flip else resized)
        assert height == 1 or np.abs(ours - theirs)[inside].max() <= 1
    assert (cropped[2] == image[59, 79]).all()
    same, mirrored = crop_and_flip(np.stack([image] * 2), windows[[0, 0]], flips[:2], (60, 80)).numpy()
    np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(mirrored, image[:, ::-1])


def test_mixup_and_cutmix_mix_pictures_and_labels_alike():
    images = np.broadcast_to(np.arange(1, 5, dtype=np.float32)[:, None, None, None], (4, 20, 40, 3))
    labels = np.eye(4, dtype=np.float32)
    partners = np.array([3, 0, 1, 2])
    neighbors, of_neighbors = images[partners], labels[partners]
    np.testing.assert_allclose(mixup(images, partners, 0.75), 0.75 * images + 0.25 * neighbors)
    np.testing.assert_allclose(mixup(labels, partners, 0.75), 0.75 * labels + 0.25 * of_neighbors)
    mixed, mixed_labels = cutmix(images, labels, partners, tf.constant(0.25), tf.constant([0.5, 0.1]))
    expected = images.copy()
    expected[:, 5:15, :14] = neighbors[:, 5:15, :14]  # 10 x 20 about row 10, column 4; 6 columns are outside
    np.testing.assert_array_equal(mixed, expected)
    share = 1 - 140 / 800
    np.testing.assert_allclose(mixed_labels, share * labels + (1 - share) * of_neighbors, rtol=1e-6)

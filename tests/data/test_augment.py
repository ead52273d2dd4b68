import math

import numpy as np
import pytest
import tensorflow as tf
from image_files import photographs
from PIL import Image, ImageEnhance, ImageOps

from keras_mixer.data.augment import OPERATIONS, crop_and_flip, crop_windows, cutmix, mixup, rand_augment

PHOTOGRAPH = photographs()[0][100:260, 200:420] // 2 + 40  # a reduced range, so that stretching shows
STRENGTHS = (0.3, 1.0, 1.5, 2.0)  # levels 3, 10, 15, 20


def changed(name, image, strength, sign=1.0, place=(0.3, 0.6)):
    """One operation on one picture."""
    numbers = tf.constant([sign]), tf.constant([place])
    return OPERATIONS[name](tf.constant(image)[None], strength, *numbers, 128)[0].numpy()


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
BLENDED = ("AutoContrast", "Color", "Contrast", "Brightness", "Sharpness")  # a blend may be rounded the other way


@pytest.mark.parametrize("name", PILLOW)
def test_colour_operations_equal_pillow(name):
    flat = np.full((8, 8, 3), 77, np.uint8)
    for strength in STRENGTHS:
        for image in (PHOTOGRAPH, flat):
            theirs = np.asarray(PILLOW[name](Image.fromarray(image), strength)).astype(int)
            difference = np.abs(changed(name, image, strength) - theirs)
            assert difference.max() <= (name in BLENDED)
            assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_moved_pictures_are_those_of_pillow_and_of_tensorflows_own_operation(sign):
    pil, (height, width) = Image.fromarray(PHOTOGRAPH), PHOTOGRAPH.shape[:2]
    turned = pil.rotate(sign * 30, Image.Resampling.NEAREST, fillcolor=(128,) * 3)
    assert (changed("Rotate", PHOTOGRAPH, 1.0, sign) != np.asarray(turned)).any(-1).mean() < 0.01

    def projected(matrix):
        transforms = tf.stack([*[tf.cast(entry, tf.float32) for entry in matrix], 0.0, 0.0])[None]
        how = {"fill_value": 128.0, "interpolation": "NEAREST", "fill_mode": "CONSTANT"}
        images = tf.constant(PHOTOGRAPH)[None]
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=images, transforms=transforms, output_shape=[height, width], **how
        )[0]

    for strength in STRENGTHS:
        shifts = [np.round(np.float32(sign * strength * 100) * side / 224) for side in (width, height)]
        for name, matrix in {"X": (1, 0, shifts[0], 0, 1, 0), "Y": (1, 0, 0, 0, 1, shifts[1])}.items():
            how = {"resample": Image.Resampling.NEAREST, "fillcolor": (128,) * 3}
            moved = pil.transform(pil.size, Image.Transform.AFFINE, matrix, **how)
            np.testing.assert_array_equal(changed(f"Translate{name}", PHOTOGRAPH, strength, sign), moved)
        angle = tf.constant(sign) * strength * math.radians(30)
        (cos, sin), (y, x) = (tf.cos(angle), tf.sin(angle)), ((side - 1) / 2 for side in (height, width))
        for name, matrix in {
            "Rotate": [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y],
            "ShearX": [1, sign * strength * 0.3, 0, 0, 1, 0],
            "ShearY": [1, 0, 0, sign * strength * 0.3, 1, 0],
        }.items():
            in_graph = tf.function(OPERATIONS[name])  # whose optimiser must not round elsewhere
            ours = in_graph(tf.constant(PHOTOGRAPH)[None], strength, tf.constant([sign]), tf.zeros((1, 2)), 128)
            np.testing.assert_array_equal(ours[0], projected(matrix), name)


def test_what_appears_and_what_is_cut_out_is_filled():
    image = np.full((160, 160, 3), 200, np.uint8)
    expected = image.copy()
    expected[80 - 28 : 80 + 28, 0 : 16 + 28] = 128  # 40 pixels of 224 to each side; what sticks out is cut off
    np.testing.assert_array_equal(changed("Cutout", image, 1.0, place=(0.5, 0.1)), expected)
    moved = rand_augment(tf.constant(image[None]), tf.fill((1, 1, 4), 0.5), 10.0, ["TranslateX"], fill=7)
    assert set(np.unique(moved)) == {7, 200}


def test_pictures_of_a_batch_are_those_of_one_by_one():
    images = np.stack([picture[:32, :48] for picture in photographs()] * 8)
    numbers = np.random.default_rng(0).random((16, 2, 4), np.float32)
    numbers[:, 0, 0] = (np.arange(16) + 0.5) / 16  # all sixteen
    for image, its_numbers, expected in zip(images, numbers, tf.function(rand_augment)(images, numbers), strict=True):
        np.testing.assert_array_equal(rand_augment(image[None], its_numbers[None])[0], expected)
        for choice, sign, *place in its_numbers:
            image = changed(list(OPERATIONS)[int(choice * 16)], image, 1.5, -1.0 if sign < 0.5 else 1.0, place)
        np.testing.assert_array_equal(image, expected)


def test_crops_are_where_the_numbers_say():
    sides = (60, 80)
    numbers = np.array([[0, 0, 0, 0], [1, 0.5, 0, 0.999], [0.5, 0.5, 0.5, 0.5]], np.float32)
    windows = crop_windows(numbers, sides, (0.25, 1.0), (3 / 4, 4 / 3)).numpy()
    smallest = np.sqrt(0.25 * 60 * 80 / (3 / 4)), np.sqrt(0.25 * 60 * 80 * (3 / 4))
    assert windows[0].tolist() == [0, 0, *np.round(smallest)]
    height, width = min(60, np.round(np.sqrt(4800))), np.round(np.sqrt(4800))  # cut where it would stick out
    assert windows[1].tolist() == [0, 80 - width, height, width]
    side = round(np.sqrt(0.625 * 4800))
    assert windows[2].tolist() == [np.floor((60 - side + 1) / 2), np.floor((80 - side + 1) / 2), side, side]
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
    whole = np.floor(tf.image.resize(image, (24, 32)).numpy() + 1 / 64)
    assert np.abs(cropped[0] - whole).max() <= 1
    assert (cropped[2] == image[59, 79]).all()
    same, mirrored = crop_and_flip(np.stack([image] * 2), windows[[0, 0]], flips[:2], (60, 80)).numpy()
    np.testing.assert_array_equal(same, image)
    np.testing.assert_array_equal(mirrored, image[:, ::-1])


def test_mixup_and_cutmix_take_the_previous_picture_and_mix_labels_alike():
    images = np.broadcast_to(np.arange(1, 5, dtype=np.uint8)[:, None, None, None], (4, 20, 40, 3))
    labels = np.eye(4, dtype=np.float32)
    neighbours, of_neighbours = np.roll(images, 1, 0), np.roll(labels, 1, 0)
    mixed, mixed_labels = mixup(images, labels, tf.constant(0.75))
    np.testing.assert_allclose(mixed, 0.75 * images + 0.25 * neighbours)
    np.testing.assert_allclose(mixed_labels, 0.75 * labels + 0.25 * of_neighbours)
    mixed, mixed_labels = cutmix(images, labels, tf.constant(0.25), tf.constant([0.5, 0.1]))
    expected = images.astype(np.float32)
    expected[:, 5:15, :14] = neighbours[:, 5:15, :14]  # 10 x 20 about row 10, column 4; 6 columns are outside
    np.testing.assert_array_equal(mixed, expected)
    share = 1 - 140 / 800
    np.testing.assert_allclose(mixed_labels, share * labels + (1 - share) * of_neighbours, rtol=1e-6)

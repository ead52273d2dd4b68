import io

import numpy as np
import pytest
import reference
import tensorflow as tf
from image_files import encode, photographs
from PIL import Image

from keras_mixer.data.preprocessing import EVALUATION_CROPS, decode_image, evaluation_image, training_image


@pytest.fixture(scope="module")
def photograph():
    return photographs()[0]


@pytest.mark.parametrize(
    ("format", "mode"),
    [("PNG", "RGB"), ("PNG", "L"), ("PNG", "P"), ("PNG", "RGBA"), ("PNG", "LA"), ("PNG", "1"), ("BMP", "RGB")],
)
def test_lossless_files_decode_to_the_rgb_that_pillow_reads(photograph, format, mode):
    encoded = encode(photograph, format, mode)
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
    np.testing.assert_array_equal(decode_image(encoded), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_decode_close_to_pillow(photograph, mode):
    encoded = encode(photograph, "JPEG", mode, quality=95)
    expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")).astype(int)
    difference = np.abs(np.asarray(decode_image(encoded)).astype(int) - expected)
    assert difference.mean() < 1.5


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_pngs_keep_their_upper_8_bits(photograph, channels):
    deep = photograph[..., :channels].astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_image(tf.io.encode_png(deep)), np.broadcast_to(deep >> 8, photograph.shape))


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_broken_files_raise(photograph, format):
    encoded = encode(photograph, format)
    for broken in (encoded[: len(encoded) // 2], b"", b"no image at all", encoded[:3] + b"\0" * 100):
        with pytest.raises(tf.errors.InvalidArgumentError):
            decode_image(broken)


@pytest.mark.parametrize("crop", EVALUATION_CROPS)
@pytest.mark.parametrize("image_size", [(224, 224), (16, 24)])
@pytest.mark.parametrize("source_size", [(427, 640), (300, 110)])
def test_evaluation_crops_are_those_of_the_oracle(photograph, crop, image_size, source_size):
    image = photograph[: source_size[0], : source_size[1]]
    exact = reference.evaluation_crop(image, image_size, crop)
    found = np.asarray(evaluation_image(encode(image, "PNG"), image_size, crop)).astype(int)
    close_to_whole = np.abs(exact - np.round(exact)) < 0.02  # there float32 may cut off the other way
    np.testing.assert_array_equal(found[~close_to_whole], np.floor(exact)[~close_to_whole])
    assert np.abs(found - exact).max() < 1.02


@pytest.mark.parametrize("crop", EVALUATION_CROPS)
@pytest.mark.parametrize("image_size", [(224, 224), (64, 96)])
@pytest.mark.parametrize("source_size", [(427, 640), (20, 30), (7, 300)])
def test_evaluation_crops_give_the_size_wanted(photograph, crop, image_size, source_size):
    encoded = encode(photograph[: source_size[0], : source_size[1]], "PNG")
    assert evaluation_image(encoded, image_size, crop).shape == (*image_size, 3)


def test_small_side_crop_is_central_and_keeps_the_aspect_ratio():
    ramp = np.broadcast_to(np.arange(512, dtype=np.float32)[None, :, None] / 2, (256, 512, 3)).astype(np.uint8)
    cropped = np.asarray(evaluation_image(encode(ramp, "PNG"), (224, 224), "resmall-crop"))
    np.testing.assert_array_equal(cropped, ramp[16:240, 144:368])


def test_resize_crop_squeezes_then_takes_the_centre():
    ramp = np.broadcast_to(np.arange(512, dtype=np.float32)[None, :, None] / 2, (256, 512, 3)).astype(np.uint8)
    cropped = np.asarray(evaluation_image(encode(ramp, "PNG"), (224, 224), "resize-crop")).astype(int)
    expected = np.arange(16, 240)  # 256 of 512 columns, each the mean of two
    assert np.abs(cropped - expected[None, :, None]).max() <= 1


def test_an_unknown_crop_is_refused(photograph):
    with pytest.raises(ValueError, match="resize, resize-crop, resmall-crop"):
        evaluation_image(encode(photograph, "PNG"), (8, 8), "centre")


def test_training_crop_depends_on_the_seed_alone(photograph):
    encoded = encode(photograph, "JPEG")
    one, same, other = (np.asarray(training_image(encoded, (32, 48), tf.constant([0, seed]))) for seed in (1, 1, 2))
    assert one.shape == (32, 48, 3)
    np.testing.assert_array_equal(one, same)
    assert np.abs(one.astype(int) - other).mean() > 5


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_training_crops_cover_the_share_of_the_image_that_is_asked_for(format):
    height, width = 200, 300
    rows, columns = np.mgrid[:height, :width]
    position = np.stack([rows, columns // 2, np.zeros_like(rows)], -1).astype(np.uint8)
    encoded = encode(position, format, **({"quality": 100, "subsampling": 0} if format == "JPEG" else {}))
    shares, aspects, mirrored = [], [], 0
    for seed in range(60):
        crop = np.asarray(training_image(encoded, (64, 64), tf.constant([0, seed]), area=(0.3, 0.6))).astype(float)
        crop_height = (crop[-1, 32, 0] - crop[0, 32, 0]) * 64 / 63
        crop_width = (crop[32, -1, 1] - crop[32, 0, 1]) * 2 * 64 / 63
        mirrored += crop_width < 0
        shares.append(crop_height * abs(crop_width) / (height * width))
        aspects.append(abs(crop_width) / crop_height)
    assert min(shares) > 0.27
    assert max(shares) < 0.64
    assert max(shares) - min(shares) > 0.2
    assert min(aspects) > 0.7
    assert max(aspects) < 1.42
    assert 15 < mirrored < 45


def test_a_crop_with_the_aspect_ratio_of_the_image_is_a_slice_at_a_random_place():
    rows, columns = np.mgrid[:64, :128].astype(np.uint8)
    image = np.stack([rows, columns, rows * 0], -1)
    png = encode(image, "PNG")

    def crop(seed, size, area):
        return np.asarray(training_image(png, size, tf.constant([0, seed]), area=area, aspect=None, flip=False))

    corners = []
    for seed in range(200):
        found = crop(seed, (56, 112), ((7 / 8) ** 2,) * 2)  # 7/8 of both sides: nothing is resized
        top, left = map(int, found[0, 0, :2])
        np.testing.assert_array_equal(found, image[top : top + 56, left : left + 112])
        corners.append((top, left))
    tops, lefts = map(set, zip(*corners, strict=True))
    assert tops == set(range(9))
    assert lefts == set(range(17))
    np.testing.assert_array_equal(crop(0, (32, 48), (1, 1)), evaluation_image(png, (32, 48), "resize"))
    spans = np.array([np.ptp(crop(seed, (64, 128), (0.25, 1)), axis=(0, 1))[:2] for seed in range(50)]) / (64, 128)
    np.testing.assert_allclose(spans[:, 0], spans[:, 1], atol=0.03)
    assert 0.48 < spans.min() < 0.6 < 0.9 < spans.max() <= 1

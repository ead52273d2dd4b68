"""Photographs of a phone: stored as the sensor lies, turned as their EXIF tag says. Pillow is the oracle."""

import io
import struct

import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, write_folder
from PIL import Image, ImageOps

from keras_mixer.data.exif import SEARCHED_BYTES, orientation_of
from keras_mixer.data.preprocessing import decode_image, evaluation_image, training_image
from keras_mixer.data.sources import load_source

ORIENTATIONS = range(1, 9)
SEED = tf.constant([0, 3])


@pytest.fixture(scope="module")
def asymmetric():
    """No turned or mirrored copy equals it; blocks of a JPEG's size keep its pixels close to those given."""
    blocks = np.random.default_rng(0).integers(40, 216, (3, 5, 3), np.uint8)
    return np.kron(blocks, np.ones((8, 8, 1), np.uint8))


def photograph(pixels, orientation, endian="<", **options):
    exif = Image.Exif()
    exif.endian = endian
    exif[0x010F], exif[0x0112] = "maker", orientation
    return encode(pixels, "JPEG", exif=exif, quality=95, **options)


def upright(pixels, orientation):
    image = Image.fromarray(pixels)
    image.getexif()[0x0112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def segment(marker, content):
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_all_eight_orientations_are_those_of_pillow(asymmetric, orientation, endian):
    file = photograph(asymmetric, orientation, endian)
    assert orientation_of(file) == orientation
    found = decode_image(file).numpy()
    np.testing.assert_array_equal(found, upright(tf.io.decode_jpeg(file).numpy(), orientation))
    by_pillow = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file))))
    np.testing.assert_allclose(found.astype(int), by_pillow, atol=10)  # the decoders differ


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_training_and_evaluation_see_the_upright_image(asymmetric, orientation):
    file = photograph(asymmetric, orientation, subsampling=0)  # with fewer colours, a crop differs at its edge
    png = encode(upright(tf.io.decode_jpeg(file).numpy(), orientation), "PNG")
    for crop in ("resize", "resmall-crop"):
        np.testing.assert_array_equal(evaluation_image(file, (16, 24), crop), evaluation_image(png, (16, 24), crop))
    np.testing.assert_array_equal(training_image(file, (16, 24), SEED), training_image(png, (16, 24), SEED))


def test_the_tag_is_found_behind_other_segments_and_only_there(asymmetric):
    file = photograph(asymmetric, 6)
    at = file.index(b"Exif\0\0") - 4
    without = file[:2] + file[at + 2 + int.from_bytes(file[at + 2 : at + 4]) :]
    exif = file[at : at + 2 + int.from_bytes(file[at + 2 : at + 4])]
    others = [segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>"), segment(0xFE, b"a comment"), segment(0xED, b"3.0")]
    assert orientation_of(without) == 1
    assert orientation_of(without[:2] + exif + b"".join(others) + without[2:]) == 6
    assert orientation_of(without[:2] + b"".join(others) + exif + without[2:]) == 6
    assert orientation_of(without[:2] + segment(0xFE, exif) + without[2:]) == 1  # inside a comment
    assert orientation_of(without[:-2] + exif + without[-2:]) == 1  # behind the pixels


def test_missing_and_damaged_tags_turn_nothing(asymmetric):
    file = photograph(asymmetric, 6)
    start = file.index(b"Exif\0\0") + 6
    tag = file.index(struct.pack("<HHI", 0x0112, 3, 1), start)
    for place, content in (
        (tag + 8, struct.pack("<H", 0)),
        (tag + 8, struct.pack("<H", 9)),
        (tag + 8, struct.pack("<H", 65535)),
        (tag + 2, struct.pack("<H", 2)),  # text
        (start + 4, b"\xff\xff\xff\xff"),  # where the directory is
        (start + 8, b"\0\0"),  # no entries
    ):
        damaged = file[:place] + content + file[place + len(content) :]
        assert orientation_of(damaged) == 1
        assert decode_image(damaged).shape == asymmetric.shape
    assert orientation_of(file[: start + 8] + b"\xff\xff" + file[start + 10 :]) == 6  # many entries
    for end in range(3, tag + 12):
        assert orientation_of(file[:end]) in (1, 6)
    many = b"\xff\xd8" + segment(0xE0, b"") * 20_000 + b"Exif\0\0"
    assert orientation_of(many) == orientation_of(many[: SEARCHED_BYTES - 6] + b"Exif\0\0") == 1


def test_folders_are_turned_and_benchmarks_are_not(asymmetric, tmp_path):
    write_folder(tmp_path, images_per_class=1)
    (tmp_path / "test" / "circle" / "0.png").unlink()
    (tmp_path / "test" / "circle" / "0.jpg").write_bytes(photograph(asymmetric, 6))
    split = load_source(str(tmp_path)).test
    (turned, _), (stored, png) = (
        [decode_image(one.read(element)["image"]) for element in one.elements] for one in (split, split.as_stored())
    )
    np.testing.assert_array_equal(turned, upright(stored.numpy(), 6))
    assert stored.shape == asymmetric.shape
    assert png.shape == (40, 48, 3)

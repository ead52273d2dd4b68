"""Small files that unpack to gigabytes, and what is said about them."""

import base64
import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from image_files import encode, photographs, write_folder
from PIL import Image

from keras_mixer.data.headers import LARGEST_IMAGE, safe_image, safe_jpeg
from keras_mixer.data.integrity import check_source
from keras_mixer.data.preprocessing import evaluation_image, evaluation_images, training_image
from keras_mixer.data.sources import load_source
from keras_mixer.description import Description
from keras_mixer.export.predictor import Predictor

FORMATS = [("JPEG", {}), ("PNG", {}), ("GIF", {}), ("BMP", {})]
if tuple(map(int, tf.__version__.split(".")[:2])) >= (2, 20):  # older ones read no WebP
    FORMATS += [
        ("WEBP", {**exif, "lossless": lossless}) for exif in ({}, {"exif": b"Exif\0\0"}) for lossless in (False, True)
    ]


def png(width, height):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return start + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def with_sides(content, width, height):
    """A whole picture whose header states other sides."""
    for start, first, form in ((b"BM", 18, "<ii"), (b"GIF", 6, "<HH"), (b"\x89PNG", 16, ">II")):
        if content.startswith(start):
            return content[:first] + struct.pack(form, width, height) + content[first + struct.calcsize(form) :]
    first = content.find(b"\xff\xc0") + 5
    return content[:first] + struct.pack(">HH", height, width) + content[first + 4 :]


@pytest.mark.parametrize(("format", "options"), FORMATS)
def test_the_header_says_the_size_and_the_pixels_stay(format, options, rng):
    content = encode(rng.integers(0, 256, (37, 53, 3), np.uint8), format, **options)
    safe, size = safe_image(content)
    assert size.numpy().tolist() == [37, 53]
    pixels = [tf.io.decode_image(some, channels=3, expand_animations=False) for some in (safe, content)]
    assert np.array_equal(*pixels)


def test_an_upside_down_bmp_has_a_size_too(rng):
    content = encode(rng.integers(0, 256, (5, 7, 3), np.uint8), "BMP")
    assert safe_image(with_sides(content, 7, -5))[1].numpy().tolist() == [5, 7]


@pytest.mark.parametrize(
    ("format", "read"), [("JPEG", safe_jpeg), *((format, safe_image) for format in ("JPEG", "PNG", "GIF", "BMP"))]
)
def test_too_many_pixels_are_refused_before_they_are_decoded(format, read, rng):
    content = encode(rng.integers(0, 256, (8, 8, 3), np.uint8), format)
    with pytest.raises(
        tf.errors.InvalidArgumentError, match=r"50000,? 50000(?s:.)*px, too large: the limit is 128,000,000"
    ):
        read(with_sides(content, 50_000, 50_000))
    assert read(with_sides(content, 12_000, 10_000)) is not None


@pytest.mark.parametrize("side", [2**31 - 1, 2**32 - 1])
def test_sides_whose_product_overflows_are_refused(side):
    with pytest.raises(tf.errors.InvalidArgumentError, match="too large"):
        safe_image(png(side, side))


def animation(count, side):
    frames = [Image.fromarray(np.full((side, side), i % 2 * 255, np.uint8)) for i in range(count)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def test_a_gif_ends_after_its_first_frame():
    content = animation(20, 64)
    safe = safe_image(content)[0].numpy()
    assert len(safe) < len(content) / 5
    pixels = [tf.io.decode_image(some, channels=3, expand_animations=False) for some in (safe, content)]
    assert np.array_equal(*pixels)


def test_the_frame_of_a_gif_counts_when_the_screen_is_small():
    content = encode(np.zeros((8, 8), np.uint8), "GIF")
    frame = content.index(b"\x2c\0\0\0\0") + 5
    content = content[:frame] + struct.pack("<HH", 60_000, 60_000) + content[frame + 4 :]
    with pytest.raises(tf.errors.InvalidArgumentError, match="60000 60000"):
        safe_image(content)


def test_a_gif_of_endless_blocks_is_refused():
    content = b"GIF89a\1\0\1\0\0\0\0" + b"!\xf9\1a" + b"\1x" * 70_000
    with pytest.raises(tf.errors.InvalidArgumentError, match="too many blocks"):
        safe_image(content)


@pytest.mark.parametrize("start", [b"", b"GIF", b"GIF89a", b"BM", b"RIFF", b"\xff\xd8\xff", b"\x89PNG", b"text"])
def test_a_header_that_ends_too_early_is_an_ordinary_error(start):
    with pytest.raises(tf.errors.InvalidArgumentError):
        evaluation_image(start, (16, 16), "resize")


BOMB = png(50_000, 50_000)


def test_every_way_to_read_an_image_has_the_limit():
    for read in (
        lambda some: evaluation_image(some, (16, 16), "resize"),
        lambda some: training_image(some, (16, 16), tf.constant([0, 0])),
    ):
        with pytest.raises(tf.errors.InvalidArgumentError, match="50000 50000"):
            list(tf.data.Dataset.from_tensors(BOMB).map(read))
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"at most 128,000,000 pixels(?s:.)*1"):
        evaluation_images([encode(photographs()[0], "JPEG"), BOMB], (16, 16), "resize")


def test_formats_whose_size_is_not_looked_up_are_refused(tmp_path):
    jpeg_xl = base64.b64decode("/woIQBBQXAgIAgEAOABLGIsVwklC5QHECADzAQ==")  # 3 x 2; TensorFlow 2.21 decodes it
    with pytest.raises(tf.errors.InvalidArgumentError, match="not JPEG, PNG, GIF, BMP or WebP"):
        evaluation_image(jpeg_xl, (16, 16), "resize")
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"their indices in the batch:(?s:.)*0"):
        evaluation_images([jpeg_xl], (16, 16), "resize")


def test_the_message_names_file_size_and_limit(tmp_path):
    description = Description((16, 16, 3), (0, 255), "probabilities", "softmax", ("a",), "resmall-crop")
    predictor = Predictor("nothing", description, lambda images: images)
    (tmp_path / "bomb.png").write_bytes(BOMB)
    with pytest.raises(ValueError, match=r"bomb\.png is an image of 50000 x 50000 px, too large.*128,000,000 pixels"):
        predictor.predict(tmp_path / "bomb.png")
    (tmp_path / "thread.png").write_bytes(encode(np.zeros((1, 20_000), np.uint8), "PNG"))
    with pytest.raises(ValueError, match=r"thread\.png is an image of 1 x 20000 px, too long.*100 times"):
        predictor.predict(tmp_path / "thread.png")


def test_bombs_are_named_before_training(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train" / "circle" / "bomb.png").write_bytes(BOMB)
    (tmp_path / "test" / "circle" / "thread.png").write_bytes(encode(np.zeros((1, 2000), np.uint8), "PNG"))
    source = load_source(str(tmp_path))
    with pytest.raises(ValueError, match=r"^1 image file(?s:.)*bomb\.png is an image of 50000 x 50000 px"):
        check_source(source)
    with pytest.raises(ValueError, match=r"^2 image file(?s:.)*thread\.png is an image of 1 x 2000 px, too long"):
        check_source(source, crop="resmall-crop")
    assert check_source(source, skip_corrupt=True, crop="resmall-crop")[1] == 2


def test_the_limit_leaves_room_for_telephones():
    assert LARGEST_IMAGE >= 12_000 * 9_000

import io
import struct
import zlib

import numpy as np
import pytest
import reference
import tensorflow as tf
from image_files import encode, evaluated, example, photographs, turned
from PIL import Image, ImageOps

from keras_mixer.data.decode import NotAnImage, decode_image, decode_jpeg_or_png, read_header, training_crop
from keras_mixer.fields import EVALUATION_CROPS
from keras_mixer.training.recipe import Recipe

MIDDLE = tf.constant([[0.5, 0.5, 0.3, 0.7, 0.2]])  # area, aspect, place, flip


@pytest.fixture(scope="module")
def photograph():
    return photographs()[0]


def trained(encoded, size, orientation=1, numbers=MIDDLE):
    return training_crop(example(encoded, orientation), numbers, Recipe("test", data="digits", image_size=size))[0]


MODES = {"PNG": "RGB L P RGBA LA 1", "BMP": "RGB L P 1 RGBA", "GIF": "RGB L P", "TIFF": "RGB L P RGBA CMYK 1 YCbCr"}
MODES |= {"WEBP": "RGB RGBA", "PPM": "RGB L 1", "TGA": "RGB P RGBA", "JPEG": "RGB L CMYK"}


@pytest.mark.parametrize("format", MODES)
def test_files_decode_to_the_rgb_that_pillow_reads(photograph, format):
    for mode in MODES[format].split():
        encoded = encode(photograph, format, mode)
        expected = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")).astype(int)
        difference = np.abs(np.asarray(decode_image(encoded)).astype(int) - expected)
        assert difference.mean() < 1.5 if format == "JPEG" else difference.max() == 0  # decoders of JPEG differ


def test_alpha_is_dropped_and_only_the_first_frame_is_used(photograph):
    clear = Image.fromarray(photograph[:40, :40]).convert("RGBA")
    clear.putalpha(0)
    palette = Image.fromarray(photograph[:40, :40]).convert("P")
    for image, format, options in [
        (clear, "TIFF", {}),
        (clear, "PNG", {}),
        (palette, "PNG", {"transparency": bytes(256)}),
        (palette, "GIF", {"transparency": int(np.asarray(palette)[0, 0])}),
    ]:
        expected = np.asarray(palette.convert("RGB")) if image is palette else photograph[:40, :40]
        np.testing.assert_array_equal(decode_image(encode(image, format, **options)), expected)
    frames = [Image.fromarray(np.full((9, 9, 3), value, np.uint8)) for value in (0, 255)]
    for format in ("GIF", "TIFF", "WEBP"):
        animation = encode(frames[0], format, save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(decode_image(animation), 0, atol=2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
def test_photographs_are_turned_as_pillow_turns_them(format, orientation):
    blocks = np.random.default_rng(0).integers(40, 216, (3, 5, 3), np.uint8)
    pixels = Image.fromarray(np.kron(blocks, np.ones((8, 8, 1), np.uint8)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encode(pixels, format, exif=exif, **({"lossless": True} if format == "WEBP" else {"quality": 95}))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")).astype(int)
    header = read_header(io.BytesIO(file))
    np.testing.assert_allclose(decode_image(file, header.orientation), upright, atol=10)  # decoders of JPEG differ
    png = encode(decode_image(file, header.orientation).numpy(), "PNG")
    of_both = (file, header.orientation), (png, 1)
    np.testing.assert_array_equal(*(evaluated(some, (16, 24), "resize", how) for some, how in of_both))
    crops = [trained(some, (16, 24), how) for some, how in of_both]
    if header.orientation > 1 or format not in ("JPEG", "MPO"):  # upright ones are decoded only inside the crop
        np.testing.assert_array_equal(*crops)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_orientations_turn_nothing(photograph):
    file = turned(photograph)
    tag = file.index(struct.pack(">HHI", 0x0112, 3, 1))
    for place, content in [(tag + 8, b"\0\0"), (tag + 8, b"\0\x09"), (tag + 2, b"\0\2"), (tag - 6, b"\xff" * 4)]:
        damaged = file[:place] + content + file[place + len(content) :]
        assert read_header(io.BytesIO(damaged)).orientation == 1
    assert read_header(io.BytesIO(file)).orientation == 6


@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_pngs_keep_their_upper_8_bits(photograph, channels):
    deep = photograph[..., :channels].astype(np.uint16) * 257
    np.testing.assert_array_equal(decode_image(tf.io.encode_png(deep)), np.broadcast_to(deep >> 8, photograph.shape))


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF"])
def test_broken_files_raise(photograph, format):
    encoded = encode(photograph, format)
    for broken in (encoded[: len(encoded) // 2], b"", b"no image at all", encoded[:3] + b"\0" * 100):
        with pytest.raises((tf.errors.OpError, OSError, NotAnImage)):
            decode_image(broken)


def with_sides(content, width, height):
    """A JPEG or PNG whose header states other sides."""
    if content.startswith(b"\x89PNG"):
        header = content[12:16] + struct.pack(">II", width, height) + content[24:29]
        return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]
    first = content.find(b"\xff\xc0") + 5
    return content[:first] + struct.pack(">HH", height, width) + content[first + 4 :]


@pytest.mark.parametrize(("width", "height"), [(50_000, 50_000), (2**31 - 1, 2**31 - 1), (2**32 - 1, 2**32 - 1)])
def test_too_many_pixels_are_refused_before_they_are_decoded(photograph, width, height):
    bombs = [with_sides(encode(photograph, "PNG"), width, height)]
    if width < 2**16:
        bombs.append(with_sides(encode(photograph, "JPEG"), width, height))
    crops = lambda some: evaluated(some, (16, 16), "resize"), lambda some: trained(some, (16, 16))
    for bomb in bombs:
        for read in (decode_image, decode_jpeg_or_png, *crops):
            with pytest.raises(tf.errors.InvalidArgumentError, match="the limit is 128,000,000 pixels"):
                list(tf.data.Dataset.from_tensors(bomb).map(read))
        with pytest.raises(Exception, match=r"exceeds limit|too large"):
            read_header(io.BytesIO(bomb))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_leaves_room_for_telephones(photograph):
    png = encode(photograph, "PNG")
    assert read_header(io.BytesIO(with_sides(png, 12_000, 9_000))).height == 9_000
    with pytest.raises(ValueError, match=r"an image of 11000 x 12000 px, too large: the limit is 128,000,000 pixels"):
        read_header(io.BytesIO(with_sides(png, 12_000, 11_000)))


@pytest.mark.parametrize("crop", EVALUATION_CROPS)
@pytest.mark.parametrize("image_size", [(224, 224), (16, 24)])
@pytest.mark.parametrize("source_size", [(427, 640), (300, 110), (7, 300)])
def test_evaluation_crops_are_those_of_the_oracle(photograph, crop, image_size, source_size):
    image = photograph[: source_size[0], : source_size[1]]
    exact = reference.evaluation_crop(image, image_size, crop)
    found = np.asarray(evaluated(encode(image, "PNG"), image_size, crop)).astype(int)
    assert found.shape == (*image_size, 3)
    close_to_whole = np.abs(exact - np.round(exact)) < 0.02  # there float32 may cut off the other way
    np.testing.assert_array_equal(found[~close_to_whole], np.floor(exact)[~close_to_whole])
    assert np.abs(found - exact).max() < 1.02


def test_an_unknown_crop_is_refused(photograph):
    with pytest.raises(ValueError, match="resize, resize-crop, resmall-crop"):
        evaluated(encode(photograph, "PNG"), (8, 8), "centre")


@pytest.mark.parametrize("numbers", [[0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0.3, 0.6, 0.5, 0.999, 0.4]])
def test_a_jpeg_decoded_inside_its_crop_gives_the_crop_of_the_whole(photograph, numbers):
    encoded = encode(photograph, "JPEG", quality=95)
    whole = encode(np.asarray(decode_image(encoded)), "PNG")
    one, other = (
        np.asarray(trained(some, (32, 48), numbers=tf.constant([numbers], tf.float32))) for some in (encoded, whole)
    )
    difference = np.abs(one.astype(int) - other)
    assert np.mean(difference) < 1
    assert np.mean(difference[2:-2, 2:-2] > 3) < 0.01

import io
import struct
import zlib

import numpy as np
import pytest
import reference
import tensorflow as tf
from image_files import decoded, encode, evaluated, photographs, turned
from PIL import Image, ImageOps

from keras_mixer.data.decode import NotAnImage, decode_jpeg_or_png, read_orientation, training_crop
from keras_mixer.training.recipe import EVALUATION_CROPS, Recipe

MIDDLE = (0.5, 0.5, 0.3, 0.7, 0.2)  # area, aspect, place, flip
PHOTOGRAPH = photographs()[0]
SMALL = PHOTOGRAPH[:40, :60]


def trained(encoded, size, orientation=1, numbers=MIDDLE):
    example = {"image": tf.convert_to_tensor(encoded), "orientation": tf.constant(orientation)}
    recipe = Recipe("test", data="digits", image_size=size)
    return training_crop(example, tf.constant([numbers], tf.float32), recipe)[0]


def as_pillow(encoded):
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB"))


MODES = {"PNG": "RGB L P RGBA LA 1", "BMP": "RGB L P 1 RGBA", "GIF": "RGB L P", "TIFF": "RGB L P RGBA CMYK 1 YCbCr"}
MODES |= {"WEBP": "RGB RGBA", "PPM": "RGB L 1", "TGA": "RGB P RGBA", "JPEG": "RGB L CMYK"}


@pytest.mark.parametrize("format", MODES)
def test_files_decode_to_the_rgb_that_pillow_reads(format):
    for mode in MODES[format].split():
        encoded = encode(SMALL, format, mode)
        difference = np.abs(np.asarray(decoded(encoded)).astype(int) - as_pillow(encoded))
        assert difference.mean() < 1.5 if format == "JPEG" else difference.max() == 0  # decoders of JPEG differ


def test_alpha_is_dropped_the_upper_bits_are_kept_and_only_the_first_frame_is_used():
    clear, palette = Image.fromarray(SMALL).convert("RGBA"), Image.fromarray(SMALL).convert("P")
    clear.putalpha(0)
    deep = SMALL.astype(np.uint16) * 257
    gray = SMALL[..., :1].repeat(3, -1)
    for encoded, expected in {
        encode(clear, "TIFF"): SMALL,
        encode(clear, "PNG"): SMALL,
        encode(palette, "PNG", transparency=bytes(256)): palette.convert("RGB"),
        encode(palette, "GIF", transparency=int(np.asarray(palette)[0, 0])): palette.convert("RGB"),
        tf.io.encode_png(deep).numpy(): SMALL,
        tf.io.encode_png(deep[..., :1]).numpy(): gray,
        encode(deep[..., 0], "TIFF"): gray,
    }.items():
        np.testing.assert_array_equal(decoded(encoded), expected)
    with pytest.raises(ValueError, match="of mode I, whose white is not known"):
        read_orientation(io.BytesIO(encode(deep[..., 0].astype(np.int32), "TIFF")))
    frames = [Image.fromarray(np.full((9, 9, 3), value, np.uint8)) for value in (0, 255)]
    for format in ("GIF", "TIFF", "WEBP"):
        animation = encode(frames[0], format, save_all=True, append_images=frames[1:])
        np.testing.assert_allclose(decoded(animation), 0, atol=2)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
def test_photographs_are_turned_as_pillow_turns_them(format):
    blocks = np.random.default_rng(0).integers(40, 216, (3, 5, 3), np.uint8)
    pixels, exif = Image.fromarray(np.kron(blocks, np.ones((8, 8, 1), np.uint8))), Image.Exif()
    for orientation in range(1, 9):
        exif[0x0112] = orientation
        file = encode(pixels, format, exif=exif, **({"lossless": True} if format == "WEBP" else {"quality": 95}))
        how = read_orientation(io.BytesIO(file))
        upright = decoded(file, how).numpy()
        np.testing.assert_allclose(upright.astype(int), as_pillow(file), atol=10)  # decoders of JPEG differ
        png = encode(upright, "PNG")
        np.testing.assert_array_equal(*(evaluated(some, (16, 24), "resize", o) for some, o in ((file, how), (png, 1))))
        if how > 1 or format not in ("JPEG", "MPO"):  # upright ones are decoded only inside the crop
            np.testing.assert_array_equal(trained(file, (16, 24), how), trained(png, (16, 24)))
    damaged = turned(SMALL).replace(struct.pack(">HHIH", 0x0112, 3, 1, 6), struct.pack(">HHIH", 0x0112, 3, 1, 9))
    assert read_orientation(io.BytesIO(damaged)) == 1


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF"])
def test_broken_files_raise(format):
    encoded = encode(PHOTOGRAPH, format)
    for broken in (encoded[: len(encoded) // 2], b"", encoded[:3] + b"\0" * 100):
        with pytest.raises((tf.errors.OpError, OSError, NotAnImage)):
            decoded(broken)


def with_sides(content, width, height):
    """A PNG whose header states other sides."""
    header = content[12:16] + struct.pack(">II", width, height) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_before_they_are_decoded():
    png, jpeg = encode(SMALL, "PNG"), encode(SMALL, "JPEG")
    assert read_orientation(io.BytesIO(with_sides(png, 12_000, 9_000))) == 1  # of a telephone
    with pytest.raises(ValueError, match=r"an image of 11000 x 12000 px, too large: the limit is 128,000,000 pixels"):
        read_orientation(io.BytesIO(with_sides(png, 12_000, 11_000)))
    large_jpeg = jpeg.replace(struct.pack(">HH", *SMALL.shape[:2]), struct.pack(">HH", 50_000, 50_000))
    crops = lambda some: evaluated(some, (16, 16), "resize"), lambda one: trained(one, (16, 16))
    for bomb in (large_jpeg, with_sides(png, 50_000, 50_000), with_sides(png, 2**32 - 1, 2**32 - 1)):
        for read in (decoded, decode_jpeg_or_png, *crops):
            with pytest.raises(tf.errors.InvalidArgumentError, match="the limit is 128,000,000 pixels"):
                list(tf.data.Dataset.from_tensors(bomb).map(read))
        with pytest.raises(Exception, match=r"exceeds limit|too large"):
            read_orientation(io.BytesIO(bomb))


@pytest.mark.parametrize("crop", EVALUATION_CROPS)
@pytest.mark.parametrize("source_size", [(427, 640), (300, 110), (7, 300)])
def test_evaluation_crops_are_those_of_the_oracle(crop, source_size):
    image = PHOTOGRAPH[: source_size[0], : source_size[1]]
    for image_size in ((224, 224), (16, 24)):
        exact = reference.evaluation_crop(image, image_size, crop)
        found = np.asarray(evaluated(encode(image, "PNG"), image_size, crop)).astype(int)
        assert found.shape == (*image_size, 3)
        close_to_whole = np.abs(exact - np.round(exact)) < 0.02  # there float32 may cut off the other way
        np.testing.assert_array_equal(found[~close_to_whole], np.floor(exact)[~close_to_whole])
        assert np.abs(found - exact).max() < 1.02


def test_a_jpeg_decoded_inside_its_crop_gives_the_crop_of_the_whole():
    encoded = encode(PHOTOGRAPH, "JPEG", quality=95)
    whole = encode(np.asarray(decoded(encoded)), "PNG")
    for numbers in ([0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0.3, 0.6, 0.5, 0.999, 0.4]):
        one, other = (np.asarray(trained(some, (32, 48), numbers=numbers)).astype(int) for some in (encoded, whole))
        difference = np.abs(one - other)
        assert np.mean(difference) < 1
        assert np.mean(difference[2:-2, 2:-2] > 3) < 0.01

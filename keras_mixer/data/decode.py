"""From encoded images to pixels of the model's input size in [0, 255]; the model maps them to its `pixel_range`.

TensorFlow decodes JPEG and PNG, Pillow all other formats; Pillow reads the headers of files. H, W are the size of any
image in pixels; `image_size` is the model's `(height, width)` in pixels.

Source: big_vision's `pp/ops_image.py` and the appendix of arXiv 2105.01601: bilinear without anti-aliasing, "area" when
the short side is resized, resized pixels cast back to uint8, central crop with the offset rounded down.
"""

import contextlib
import io
import re

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps, UnidentifiedImageError

from keras_mixer.data.augment import crop_and_flip, crop_windows
from keras_mixer.training.recipe import EvaluationCrop, check

LARGEST_IMAGE = 128_000_000  # pixels, 384 MB decoded; phone cameras reach 108 million
MOST_ELONGATED = 100  # long side / short side that is resized; the rest of the long one would be cut off anyway
BY_TENSORFLOW = ("JPEG", "MPO", "PNG")  # an MPO file is a JPEG followed by others
NO_PIXELS = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")  # Pillow opens them, but other programs decode them
NO_COLOURS = ("F", "I")  # numbers of 32 bits
UPRIGHT, ORIENTATION_TAG = 1, 0x0112


class NotAnImage(ValueError):
    """Something is not a file of pixels in a format that Pillow knows."""


def read_orientation(file) -> int:
    """The EXIF orientation of an image, 1 (upright) to 8; 1 for what Pillow decodes, and turns.

    Reads only the header. ValueError, or any error of Pillow, if there is none or the image cannot be used.
    """
    try:
        image = Image.open(file)
    except UnidentifiedImageError as error:
        raise NotAnImage("not an image that Pillow can read" if file.seek(0, io.SEEK_END) else "empty") from error
    if image.format in NO_PIXELS:
        raise NotAnImage(f"not an image of pixels, but {image.format}")
    if image.width * image.height > LARGEST_IMAGE:
        size = f"{image.height} x {image.width} px"
        raise ValueError(f"an image of {size}, too large: the limit is {LARGEST_IMAGE:,} pixels")
    if image.format not in BY_TENSORFLOW:
        if image.mode in NO_COLOURS:
            raise ValueError(f"an image of mode {image.mode}, whose white is not known; convert it to 8 bits per color")
        return UPRIGHT
    with contextlib.suppress(Exception):  # damaged EXIF data turn nothing
        orientation = Image.Image.getexif(image)[ORIENTATION_TAG]  # that of PNG decodes the pixels
        return orientation if orientation in range(1, 9) else UPRIGHT
    return UPRIGHT


def reason_of(error) -> str:
    """The first line of an error, without what TensorFlow says about the place in a graph."""
    first, *_ = str(error).splitlines() or [repr(error)]
    return re.sub(r"{{.*?}} ?|Error in .* Iterator::\S+: | \[Op:.*", "", first).rstrip(".")


def as_file(encoded):
    """The argument of a function that `tf.numpy_function` calls, as an open file; eagerly, strings come as arrays."""
    return io.BytesIO(np.asarray(encoded, object).item())


def image_of(example):
    """The image of an example as `(H, W, 3) uint8`, upright.

    Encoded ones may have any format that Pillow reads. Alpha is dropped, 16-bit is reduced to its upper 8 bits, and
    only the first frame of an animation is used.
    """
    image = example["image"]
    if image.dtype != tf.string:
        return _as_rgb(image)
    decoded = tf.cond(
        is_jpeg_or_png(image),
        lambda: decode_jpeg_or_png(image),
        lambda: tf.ensure_shape(tf.numpy_function(_decode_with_pillow, [image], tf.uint8), (None, None, 3)),
    )
    return _upright(decoded, example["orientation"]) if "orientation" in example else decoded


def _as_rgb(pixels):
    """`(..., 1 or 3) -> (..., 3)`."""
    return pixels if pixels.shape[-1] == 3 else tf.repeat(pixels, 3, axis=-1)


def decode_jpeg_or_png(encoded):
    """`() string -> (H, W, 3) uint8`: a JPEG or PNG as stored, in TensorFlow operations, for a SavedModel too."""
    with tf.control_dependencies([_sides(encoded)]):
        return tf.ensure_shape(tf.io.decode_image(encoded, channels=3, expand_animations=False), (None, None, 3))


def is_jpeg_or_png(encoded):
    """`() string -> () bool`, by the first bytes."""
    return tf.io.is_jpeg(encoded) | (tf.strings.substr(encoded, 0, 8) == b"\x89PNG\r\n\x1a\n")


def _sides(encoded):
    """`() string -> (2,) int32`: height and width in the header of a JPEG or PNG; others and large ones are refused."""
    sides = tf.cond(
        tf.io.is_jpeg(encoded),
        lambda: tf.io.extract_jpeg_shape(encoded)[:2],
        lambda: tf.io.decode_raw(tf.strings.substr(encoded, 16, 8), tf.int32, little_endian=False)[1::-1],
    )
    small = (tf.reduce_min(sides) > 0) & (tf.reduce_prod(tf.cast(sides, tf.int64)) <= LARGEST_IMAGE)
    message = ["an image of", sides, f"px: the limit is {LARGEST_IMAGE:,} pixels"]
    with tf.control_dependencies([tf.debugging.Assert(is_jpeg_or_png(encoded) & small, message)]):
        return tf.identity(sides)


def _decode_with_pillow(encoded):
    read_orientation(as_file(encoded))  # refuses large images
    upright = ImageOps.exif_transpose(Image.open(as_file(encoded)))
    if upright.mode.startswith("I;16"):
        return np.repeat((np.asarray(upright) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.asarray(upright.convert("RGB"))


def _upright(image, orientation):
    """`(H, W, 3) -> (H, W, 3) or (W, H, 3)`: stored pixels as a person sees them, by the EXIF orientation."""
    image = tf.cond(orientation > 4, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    mirrored, upside_down = orientation // 2 % 2 == 1, (orientation - 1) // 2 % 2 == 1  # 2, 3, 6, 7; 3, 4, 7, 8
    image = tf.cond(mirrored, lambda: tf.reverse(image, [1]), lambda: image)
    return tf.cond(upside_down, lambda: tf.reverse(image, [0]), lambda: image)


def evaluation_crop(image, image_size, crop):
    """`(H, W, 3) uint8 -> (height, width, 3) uint8`: resized and cropped by an `EvaluationCrop`."""
    check("crop", crop, EvaluationCrop)
    if crop == "resize":
        return resize(image, image_size)
    larger = [round(side * 8 / 7) for side in image_size]
    if crop == "resize-crop":
        return _middle(resize(image, larger), image_size)
    sides = tf.shape(image)[:2]
    kept = tf.minimum(sides, MOST_ELONGATED * tf.reduce_min(sides))
    scale = tf.reduce_max(larger / tf.cast(kept, tf.float32))
    resized = tf.cast(tf.round(tf.cast(kept, tf.float32) * scale), tf.int32)
    return _middle(resize(_middle(image, tf.unstack(kept)), resized, "area"), image_size)


def _middle(image, size):
    """`(H, W, 3) -> (*size, 3)`: the offset is rounded down."""
    return tf.image.crop_to_bounding_box(image, *tf.unstack((tf.shape(image)[:2] - size) // 2), *size)


def training_crop(example, numbers, recipe):
    """An example, or n of pixels, `(n, 5) -> (n, h, w, 3) uint8`: the Inception crop, resized, some mirrored.

    The numbers are those of `crop_windows`, and one for the flip. A JPEG is decoded only inside the crop.
    """
    image, size = example["image"], recipe.input_shape()[:2]
    flips = numbers[:, 4] < (0.5 if recipe.flip else 0.0)

    def windows(sides):
        return crop_windows(numbers[:, :4], sides, recipe.crop_area, recipe.crop_aspect)

    if image.dtype != tf.string:
        images = image if image.shape.rank == 4 else image[None]
        return _as_rgb(crop_and_flip(images, windows(tf.shape(images)[1:3]), flips, size))
    upright = example.get("orientation", UPRIGHT) == UPRIGHT

    def crop_of_jpeg():
        return tf.io.decode_and_crop_jpeg(image, windows(_sides(image))[0], channels=3)

    def crop_of_image():
        decoded = image_of(example)
        return tf.image.crop_to_bounding_box(decoded, *tf.unstack(windows(tf.shape(decoded)[:2])[0]))

    cropped = tf.cond(tf.io.is_jpeg(image) & upright, crop_of_jpeg, crop_of_image)
    resized = resize(tf.ensure_shape(cropped, (None, None, 3)), size)  # twice as fast as crop_and_flip for one image
    return tf.cond(flips[0], lambda: tf.reverse(resized, [1]), lambda: resized)[None]


def resize(image, size, method="bilinear"):
    """`(H, W, 3) uint8 -> (*size, 3) uint8`; fractions are truncated, as in the official code."""
    pixels = tf.cast(image, tf.float32)  # a third faster than resizing uint8
    return tf.cast(tf.image.resize(pixels, size, method), tf.uint8)

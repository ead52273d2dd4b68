"""From encoded bytes to an image of the model's input size with pixels in [0, 255]; the model maps them to [-1, 1].

Shapes: H, W are the size of any image in pixels; `image_size` is the model's `(height, width)` in pixels.

Source: big_vision's `pp/ops_image.py` and the appendix of arXiv 2105.01601: bilinear without anti-aliasing, "area" when
the short side is resized, resized pixels cast back to uint8, central crop with the offset rounded down.
"""

import tensorflow as tf

from keras_mixer.data.exif import (
    UPRIGHT,
    decode_upright_crop,
    orientation_of,
    turn_upright,
    upright_sides,
)
from keras_mixer.data.headers import LARGEST_IMAGE, REFUSED, safe_image, safe_jpeg, why_refused
from keras_mixer.data.rare import rarely
from keras_mixer.data.settings import EVALUATION_CROPS

MOST_ELONGATED = 100  # long side / short side; resizing the short side scales the long one too
DECODING_THREADS = 8  # per batch; more than the cores of a server does no harm


def decode_image(encoded):
    """`() string -> (H, W, 3) uint8`: JPEG, PNG, GIF (first frame), BMP or WebP as RGB.

    Greyscale and palette images are expanded, alpha is dropped, CMYK is converted, 16-bit is reduced to its upper 8
    bits. A JPEG is turned as its EXIF orientation says, so that the model sees what a person sees.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are not such an image, are truncated, or would unpack to more than
            `LARGEST_IMAGE` pixels; `why_unreadable` turns it into a sentence.
    """
    safe = tf.cond(tf.io.is_jpeg(encoded), lambda: safe_jpeg(encoded)[0], lambda: safe_image(encoded)[0])
    image = tf.io.decode_image(safe, channels=3, expand_animations=False)
    image.set_shape((None, None, 3))
    return turn_upright(image, orientation_of(encoded))


def check_image(encoded, crop):
    """`() string -> (2,) int32`: the `(height, width)` of an image that decodes and can be cropped.

    Raises:
        tf.errors.InvalidArgumentError: as `evaluation_image`.
    """
    sides = tf.shape(decode_image(encoded))[:2]
    with tf.control_dependencies([refuse_elongated(sides)] if crop == "resmall-crop" else []):
        return tf.identity(sides)


def refuse_elongated(sides):
    """Returns an assertion on `(height, width)` int32: resizing the short side must not make the long one huge."""
    short_enough = tf.reduce_max(sides) <= MOST_ELONGATED * tf.reduce_min(sides)
    limit = f"px, too long for the crop resmall-crop: the limit is {MOST_ELONGATED} times the short side"
    return tf.debugging.Assert(short_enough, [REFUSED, sides, limit])


def why_unreadable(path, error) -> str:
    """A readable sentence about an image that `decode_image` or `evaluation_image` rejected."""
    refused = why_refused(error)
    if refused:
        return f"{path} is {refused}."
    return f"{path} cannot be decoded; it must be a complete JPEG, PNG, GIF, BMP or WebP image."


def evaluation_image(encoded, image_size, crop):
    """`() string -> (height, width, 3) uint8`: decoded, then resized and cropped by one of `EVALUATION_CROPS`.

    Raises:
        tf.errors.InvalidArgumentError: as `decode_image`; or the crop is "resmall-crop" and the long side is more than
            `MOST_ELONGATED` times the short one, so that the resized image would be huge.
        ValueError: `crop` is unknown.
    """
    image = decode_image(encoded)
    height, width = image_size
    if crop == "resize":
        return resize(image, image_size)
    if crop == "resize-crop":
        image = resize(image, (round(height * 8 / 7), round(width * 8 / 7)))
    elif crop == "resmall-crop":
        sides = tf.shape(image)[:2]
        with tf.control_dependencies([refuse_elongated(sides)]):
            shape = tf.cast(sides, tf.float32)
        scale = tf.reduce_max([round(height * 8 / 7), round(width * 8 / 7)] / shape)
        small = tf.cast(tf.round(shape * scale), tf.int32)
        image = resize(image, small, method="area")
    else:
        raise ValueError(f"Unknown evaluation crop {crop!r}; valid ones are {', '.join(EVALUATION_CROPS)}.")
    top = (tf.shape(image)[0] - height) // 2
    left = (tf.shape(image)[1] - width) // 2
    return tf.image.crop_to_bounding_box(image, top, left, height, width)


def evaluation_images(encoded, image_size, crop):
    """`(B,) string -> (B, height, width, 3) uint8`: `evaluation_image` for a batch, in a graph and multi-threaded.

    Raises:
        tf.errors.InvalidArgumentError: images cannot be decoded; the message contains their indices.
        ValueError: `crop` is unknown.
    """
    count = tf.size(encoded, out_type=tf.int64)

    def prepared(i, image):
        return i, evaluation_image(image, image_size, crop)

    numbered = tf.data.Dataset.from_tensor_slices(encoded).enumerate()
    good = numbered.map(prepared, num_parallel_calls=DECODING_THREADS).ignore_errors()
    end = tf.data.Dataset.from_tensors((count, tf.zeros((*image_size, 3), tf.uint8)))  # the batch is never empty
    indices, images = good.concatenate(end).batch(count + 1).get_single_element()
    bad = tf.where(tf.scatter_nd(indices[:, None], tf.ones_like(indices), [count + 1]) == 0)[:, 0]
    message = (
        f"images cannot be decoded (expected complete JPEG, PNG, GIF, BMP or WebP files of at most {LARGEST_IMAGE:,} "
        "pixels); their indices in the batch:"
    )
    with tf.control_dependencies([tf.debugging.Assert(tf.size(bad) == 0, [message, bad], summarize=100)]):
        return images[:-1]


def training_image(encoded, image_size, seed, area=(0.05, 1.0), aspect=(3 / 4, 4 / 3), flip=True):
    """`() string -> (height, width, 3) uint8`: the Inception crop, resized, and flipped half of the time.

    A JPEG is decoded only inside the crop, which makes the input pipeline much faster.

    Args:
        encoded: an encoded image.
        image_size: `(height, width)` in pixels.
        seed: `(2,)` int; the same seed gives the same crop.
        area: smallest and largest fraction of the image's area that the crop covers.
        aspect: smallest and largest width / height of the crop; None: that of the image.
        flip: whether to flip left-right with probability 1/2.
    """
    orientation = orientation_of(encoded)

    @rarely(tf.TensorSpec((), tf.string), tf.TensorSpec((2,), seed.dtype), tf.TensorSpec((), tf.int32))
    def turned_jpeg_crop(encoded, seed, orientation):
        sides = upright_sides(tf.cast(safe_jpeg(encoded)[1], tf.int32), orientation)
        return decode_upright_crop(encoded, _crop_window(sides, seed, area, aspect), sides, orientation)

    def upright_crop():
        is_jpeg = tf.io.is_jpeg(encoded)
        image = tf.cond(is_jpeg, lambda: tf.zeros((0, 0, 3), tf.uint8), lambda: decode_image(encoded))
        shape = tf.cond(is_jpeg, lambda: tf.cast(safe_jpeg(encoded)[1], tf.int32), lambda: tf.shape(image)[:2])
        window = _crop_window(shape, seed, area, aspect)
        return tf.cond(
            is_jpeg,
            lambda: tf.io.decode_and_crop_jpeg(encoded, window, channels=3),
            lambda: _crop(image, window),
        )

    turned = orientation > UPRIGHT
    cropped = tf.cond(turned, lambda: turned_jpeg_crop(encoded, seed, orientation), upright_crop)
    return _resized_and_flipped(cropped, image_size, seed, flip)


def _crop_window(shape, seed, area, aspect):
    """`(4,) int32`: top, left, height, width of a random crop of an image; `shape` is `(height, width)`."""
    if aspect is None:
        draws = tf.random.stateless_uniform((3,), seed)
        sides = tf.sqrt(area[0] + draws[0] * (area[1] - area[0])) * tf.cast(shape, tf.float32)
        sides = tf.maximum(tf.cast(tf.round(sides), tf.int32), 1)
        places = tf.cast(shape - sides + 1, tf.float32)  # along each axis, all equally likely
        return tf.concat([tf.cast(draws[1:] * places, tf.int32), sides], 0)
    begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.concat([shape, [3]], 0),
        tf.zeros((1, 0, 4)),
        seed=seed,
        min_object_covered=0.0,
        aspect_ratio_range=aspect,
        area_range=area,
        use_image_if_no_bounding_boxes=True,
    )
    return tf.concat([begin[:2], size[:2]], 0)


def _crop(image, window):
    return tf.slice(image, [window[0], window[1], 0], [window[2], window[3], 3])


def _resized_and_flipped(cropped, image_size, seed, flip):
    cropped.set_shape((None, None, 3))
    image = resize(cropped, image_size)
    if flip:
        image = tf.image.stateless_random_flip_left_right(image, seed + tf.constant([0, 1], seed.dtype))
    return image


def resize(image, size, method="bilinear"):
    """`(H, W, 3) uint8 -> (*size, 3) uint8`; fractions are truncated, as in the official code."""
    pixels = tf.cast(image, tf.float32)  # a third faster than resizing uint8
    return tf.cast(tf.image.resize(pixels, size, method), tf.uint8)

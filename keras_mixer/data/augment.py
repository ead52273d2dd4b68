"""RandAugment, mixup and CutMix the way the paper's code has them, as functions of an explicit seed.

Nothing here keeps random state: the same seed gives the same picture, on both engines and after a resume. That, and the
paper's scale of levels, is why KerasCV's `RandAugment`, `MixUp` and `CutMix` (state of their own, one coefficient for
each example, magnitude at most 1) are not used whole. Of its operations, those without randomness that equal Pillow to
the last bit serve here: Posterize and Solarize.

Source: appendix B of arXiv 2105.01601; big_vision's archived autoaugment and `utils.get_mixup`.
"""

import dataclasses
import functools
import math

import keras_cv
import tensorflow as tf

from keras_mixer.data.operations import RANDAUGMENT_OPERATIONS

MAX_LEVEL = 10.0  # levels count in tenths of each operation's nominal range; the paper goes to 20
REFERENCE_SIDE = 224  # translations and cut-outs are given in pixels of an image of this side


def rand_augment(image, seed, num_ops=2, level=15.0, operations=None, fill=128):
    """`(h, w, 3) uint8 -> (h, w, 3) uint8`: `num_ops` operations drawn with replacement, one after the other.

    Args:
        image: pixels in [0, 255].
        seed: `(2,)` int; the same seed gives the same picture.
        num_ops: how many operations.
        level: strength in tenths of the nominal range, 0 to 20; the paper uses 10, 15 and 20.
        operations: names out of `RANDAUGMENT_OPERATIONS`, or None for all sixteen.
        fill: grey value that appears where a picture was moved away or cut out; the paper's is 128.

    Raises:
        ValueError: an unknown operation; lists the valid ones.
    """
    names = tuple(OPERATIONS) if operations is None else tuple(operations)
    unknown = [name for name in names if name not in OPERATIONS]
    if unknown or not names:
        raise ValueError(f"Unknown RandAugment operations {unknown}; valid ones are {', '.join(OPERATIONS)}.")
    shape = image.shape
    for draw in range(num_ops):
        seeds = tf.random.split(tf.random.fold_in(seed, draw), 2)  # (2, 2)
        choice = tf.random.stateless_uniform((), seeds[0], 0, len(names), tf.int32)
        move = Move(tf.where(tf.random.stateless_uniform((), seeds[1]) < 0.5, -1.0, 1.0), seeds[1], fill)
        branches = [functools.partial(OPERATIONS[name], image, level / MAX_LEVEL, move) for name in names]
        image = tf.ensure_shape(tf.switch_case(choice, branches), shape)
    return image


def mixup(images, labels, seed, alpha):
    """`(B, h, w, 3), (B, classes) -> the same`: every image mixed with its neighbour in the batch, by one coefficient.

    The coefficient is `max(a, 1 - a)` for `a ~ Beta(alpha, alpha)`, one for the whole batch.

    Args:
        images: uint8 or float pixels; float32 is returned.
        labels: one-hot rows in float32; mixed rows sum to 1 too.
        seed: `(2,)` int.
        alpha: the paper's mixup parameter p, greater than 0. It is no probability: mixing always happens.
    """
    gammas = tf.random.stateless_gamma((2,), seed, alpha=alpha)
    share = tf.math.divide_no_nan(gammas[0], tf.reduce_sum(gammas))  # small alpha may give two zeros
    share = tf.maximum(share, 1 - share)
    images = tf.cast(images, tf.float32)
    mixed_images = share * images + (1 - share) * tf.roll(images, 1, axis=0)
    return mixed_images, share * labels + (1 - share) * tf.roll(labels, 1, axis=0)


def cutmix(images, labels, seed, alpha):
    """`(B, h, w, 3), (B, classes) -> the same`: one rectangle of every image comes from its neighbour in the batch.

    The rectangle covers a share `a ~ Beta(alpha, alpha)` of the image, its centre lies anywhere, and what leaves the
    image is cut off; labels are mixed by the area that is left. One rectangle for the whole batch.

    Args:
        images: uint8 or float pixels; float32 is returned.
        labels: one-hot rows in float32; mixed rows sum to 1 too.
        seed: `(2,)` int.
        alpha: greater than 0.

    Source: Yun et al. 2019 (arXiv 1905.04899), algorithm 1. Not part of the Mixer paper.
    """
    seeds = tf.random.split(seed, 2)  # (2, 2)
    gammas = tf.random.stateless_gamma((2,), seeds[0], alpha=alpha)
    cut = tf.math.divide_no_nan(gammas[0], tf.reduce_sum(gammas))
    sides = tf.cast(tf.shape(images)[1:3], tf.float32)
    centre = tf.random.stateless_uniform((2,), seeds[1]) * sides
    half = tf.sqrt(cut) * sides / 2
    first, last = (tf.cast(tf.clip_by_value(edge, 0.0, sides), tf.int32) for edge in (centre - half, centre + half))
    rows, columns = tf.range(tf.shape(images)[1])[:, None, None], tf.range(tf.shape(images)[2])[None, :, None]
    inside = (rows >= first[0]) & (rows < last[0]) & (columns >= first[1]) & (columns < last[1])  # (h, w, 1)
    images = tf.cast(images, tf.float32)
    share = 1 - tf.reduce_mean(tf.cast(inside, tf.float32))
    return tf.where(inside, tf.roll(images, 1, axis=0), images), share * labels + (1 - share) * tf.roll(
        labels, 1, axis=0
    )


@dataclasses.dataclass(frozen=True)
class Move:
    """What the operations that move pixels need: direction +1 or -1, a seed `(2,)`, the grey that fills."""

    sign: tf.Tensor
    seed: tf.Tensor
    fill: int


# Each operation: (image uint8 (h, w, 3), strength = level / 10, move) -> image uint8 (h, w, 3).


def _auto_contrast(image, strength, move):
    rows = tf.cast(_rows(image), tf.float32)  # (h, 3w)
    low, high = (_of_channels(reduce, rows) for reduce in (tf.reduce_min, tf.reduce_max))
    flat = high <= low  # (3,): such a channel stays
    scale = tf.where(flat, 1.0, 255.0 / tf.where(flat, 1.0, high - low))
    stretched = (rows - _along_rows(tf.where(flat, 0.0, low), image)) * _along_rows(scale, image)
    return tf.reshape(_to_uint8(stretched), tf.shape(image))


def _equalize(image, strength, move):
    """Flattens each channel's histogram. KerasCV's differs: smallest filled bin where Pillow takes the last one."""
    bins = tf.cast(_rows(image), tf.int32) + _along_rows(tf.constant([0, 256, 512]), image)  # (h, 3w)
    none = tf.zeros((0,), tf.int32)
    histogram = tf.raw_ops.DenseBincount(input=tf.reshape(bins, [-1]), size=768, weights=none)
    histogram = tf.reshape(histogram, (3, 256))  # tf.math.bincount asks first whether there is a negative number
    last = 255 - tf.argmax(tf.reverse(histogram > 0, [1]), axis=1, output_type=tf.int32)  # the highest filled bin
    step = (tf.reduce_sum(histogram, 1) - tf.gather(histogram, last, batch_dims=1)) // 255
    tables = (tf.cumsum(histogram, 1, exclusive=True) + step[:, None] // 2) // tf.maximum(step, 1)[:, None]
    tables = tf.where(step[:, None] > 0, tf.minimum(tables, 255), tf.range(256))
    return tf.reshape(tf.gather(tf.reshape(tf.cast(tables, tf.uint8), [-1]), bins), tf.shape(image))


def _invert(image, strength, move):
    return 255 - image


def _posterize(image, strength, move):
    """Drops low bits; the paper's scale reads int(strength * 4) as the number of bits that are kept."""
    bits = min(int(strength * 4), 8)
    if bits == 0:
        return tf.zeros_like(image)
    return tf.cast(keras_cv.layers.Posterization((0, 255), bits=bits, dtype="float32")(image), tf.uint8)


def _solarize(image, strength, move):
    """Inverts pixels at or above int(strength * 256); beyond strength 1 none is left to invert."""
    threshold = keras_cv.core.ConstantFactorSampler(float(int(strength * 256)))
    layer = keras_cv.layers.Solarization(value_range=(0, 255), threshold_factor=threshold, dtype="float32")
    return tf.cast(layer(image), tf.uint8) if strength < 1 else image


def _solarize_add(image, strength, move):
    pixels = tf.cast(image, tf.float32)
    return _to_uint8(pixels + tf.cast(pixels < 128, tf.float32) * int(strength * 110))


def _color(image, strength, move):
    grey = tf.broadcast_to(_grey(image)[..., None], tf.shape(image))
    return _blend(grey, image, strength * 1.8 + 0.1)


def _contrast(image, strength, move):
    grey = _grey(image)
    total = tf.reduce_sum(tf.cast(grey, tf.int32))
    return _blend(tf.round(tf.cast(total / tf.size(grey), tf.float32)), image, strength * 1.8 + 0.1)


def _brightness(image, strength, move):
    return _blend(0.0, image, strength * 1.8 + 0.1)


def _sharpness(image, strength, move):
    rows = tf.cast(_rows(image), tf.float32)  # (h, 3w): the neighbour in a row is three places off
    of_three = rows[:-2] + rows[1:-1] + rows[2:]  # (h - 2, 3w)
    of_nine = of_three[:, :-6] + of_three[:, 3:-3] + of_three[:, 6:]  # (h - 2, 3w - 6)
    inside = rows[1:-1, 3:-3]
    smooth = tf.floor((of_nine + 4.0 * inside) * (1 / 13) + 0.5)  # weights 1, in the middle 5
    sharp = _to_uint8(smooth + (strength * 1.8 + 0.1) * (inside - smooth))
    whole = _rows(image)  # its border stays
    middle = tf.concat([whole[1:-1, :3], sharp, whole[1:-1, -3:]], 1)
    return tf.reshape(tf.concat([whole[:1], middle, whole[-1:]], 0), tf.shape(image))


def _rotate(image, strength, move):
    angle = move.sign * strength * math.radians(30)
    cos, sin = tf.cos(angle), tf.sin(angle)
    center_y, center_x = ((tf.cast(side, tf.float32) - 1) / 2 for side in (tf.shape(image)[0], tf.shape(image)[1]))
    shift_x = cos * center_x - center_x - sin * center_y
    shift_y = sin * center_x - center_y + cos * center_y
    return _affine(image, move.fill, [cos, -sin, shift_x, sin, cos, shift_y])


def _shear_x(image, strength, move):
    return _affine(image, move.fill, [1.0, move.sign * strength * 0.3, 0.0, 0.0, 1.0, 0.0])


def _shear_y(image, strength, move):
    return _affine(image, move.fill, [1.0, 0.0, 0.0, move.sign * strength * 0.3, 1.0, 0.0])


def _translate_x(image, strength, move):
    shift = move.sign * strength * 100 * tf.cast(tf.shape(image)[1], tf.float32) / REFERENCE_SIDE
    return _shifted(image, shift, move.fill, axis=1)


def _translate_y(image, strength, move):
    shift = move.sign * strength * 100 * tf.cast(tf.shape(image)[0], tf.float32) / REFERENCE_SIDE
    return _shifted(image, shift, move.fill, axis=0)


def _cutout(image, strength, move):
    """A grey square of half side int(strength * 40) pixels of a 224 px image, its centre anywhere in the picture."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    half = tf.cast(int(strength * 40) * tf.minimum(height, width) / REFERENCE_SIDE, tf.int32)
    centre = tf.random.stateless_uniform((2,), move.seed)
    centre_y = tf.cast(centre[0] * tf.cast(height, tf.float32), tf.int32)
    centre_x = tf.cast(centre[1] * tf.cast(width, tf.float32), tf.int32)
    top, bottom = (tf.clip_by_value(centre_y + edge, 0, height) for edge in (-half, half))
    left, right = (tf.clip_by_value(centre_x + edge, 0, width) for edge in (-half, half))
    square = tf.fill((bottom - top, right - left, 3), tf.constant(move.fill, tf.uint8))
    beside = tf.concat([image[top:bottom, :left], square, image[top:bottom, right:]], 1)
    return tf.ensure_shape(tf.concat([image[:top], beside, image[bottom:]], 0), image.shape)


OPERATIONS = dict(
    zip(
        RANDAUGMENT_OPERATIONS,
        (
            *(_auto_contrast, _equalize, _invert, _rotate, _posterize, _solarize, _color, _contrast),
            *(_brightness, _sharpness, _shear_x, _shear_y, _translate_x, _translate_y, _cutout, _solarize_add),
        ),
        strict=True,
    )
)


# These run for every training image, and an input pipeline is as fast as they are. On CPUs TensorFlow is quick with
# plain float arithmetic on long rows and with copies; ten times slower with tf.where, products and minima of uint8, a
# short last axis, or ImageProjectiveTransformV3.


def _rows(image):
    """`(h, w, 3) -> (h, 3w)`."""
    return tf.reshape(image, (tf.shape(image)[0], -1))


def _along_rows(values, image):
    """`(3,) -> (3w,)`: one value for each channel, over and over."""
    return tf.tile(values, (tf.shape(image)[1],))


def _of_channels(reduce, rows):
    """`(h, 3w) -> (3,)`."""
    return reduce(tf.reshape(reduce(rows, axis=0), (-1, 3)), axis=0)


def _shifted(image, shift, fill, axis):
    """Row (axis 0) or column i of the result is row or column i + shift, rounded to whole ones, of the image."""
    size = tf.shape(image)[axis]
    shift = tf.clip_by_value(tf.cast(tf.round(shift), tf.int32), -size, size)
    first, last = tf.maximum(shift, 0), size + tf.minimum(shift, 0)
    kept, added = (
        image[first:last] if axis == 0 else image[:, first:last],
        (tf.maximum(-shift, 0), tf.maximum(shift, 0)),
    )
    padding = (added, (0, 0), (0, 0)) if axis == 0 else ((0, 0), added, (0, 0))
    return tf.ensure_shape(tf.pad(kept, padding, constant_values=fill), image.shape)


def _affine(image, fill, matrix):
    """Moves pixels, nearest neighbour: out of (a x + b y - c, d x + e y - f) to (x, y); `matrix` is [a, b, c, d, e, f].

    The same arithmetic and rounding as ImageProjectiveTransformV3, which does it for each channel of each pixel anew.
    Shifts are subtracted because sums of three TensorFlow's graph optimiser would regroup, and round in other places.
    """
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    a, b, c, d, e, f = matrix
    x, y = tf.range(width, dtype=tf.float32)[None, :], tf.range(height, dtype=tf.float32)[:, None]
    columns, inside_columns = _nearest(a * x + b * y - c, width)  # (h, w)
    rows, inside_rows = _nearest(d * x + e * y - f, height)
    inside = tf.cast(inside_columns & inside_rows, tf.int32)
    outside = height * width  # the place of one more pixel, the grey one
    places = (rows * width + columns - outside) * inside + outside
    pixels = tf.concat([tf.reshape(image, (-1, 3)), tf.fill((1, 3), tf.constant(fill, tf.uint8))], 0)
    return tf.gather(pixels, places)


def _nearest(place, size):
    """`float32 -> int32, bool`: places rounded, halves up, and whether they lie in [0, size)."""
    whole = tf.floor(place)
    rounded = tf.cast(whole + tf.cast(place - whole >= 0.5, tf.float32), tf.int32)
    return rounded, (place > -0.5) & (place < tf.cast(size, tf.float32) - 0.5)


def _grey(image):
    """`(h, w, 3) -> (h, w) float32`: Pillow's "L", ITU-R 601 luma in 16-bit fixed point, equal to the last bit.

    All products and sums are whole numbers below 2^24 over 2^16, which float32 holds exactly.
    """
    red, green, blue = tf.unstack(tf.cast(image, tf.float32), axis=-1)
    return tf.floor(red * (19595 / 65536) + green * (38470 / 65536) + blue * (7471 / 65536) + 0.5)


def _blend(degenerate, image, factor):
    """`factor` 0 gives `degenerate`, 1 the image, above 1 exaggerates."""
    return _to_uint8(degenerate + factor * (tf.cast(image, tf.float32) - degenerate))


def _to_uint8(pixels):
    return tf.cast(tf.clip_by_value(pixels, 0, 255), tf.uint8)

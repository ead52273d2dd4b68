"""RandAugment's operations that only move pixels: rotation, shear and translation, for one image or many.

Source: appendix B of arXiv 2105.01601; big_vision's archived autoaugment.
"""

import math

import tensorflow as tf

MAX_LEVEL = 10.0  # the level of each operation's nominal maximum; the paper goes to 20
REFERENCE_SIDE = 224  # side of the image in whose pixels translations and cut-outs are measured


# The operations that only move pixels, as a matrix for `move`: (strength, sign, (height, width)) -> six numbers.


def rotation(strength, sign, sides):
    """Rotates by 30 degrees at strength 1, about the centre."""
    angle = sign * strength * math.radians(30)
    cos, sin = tf.cos(angle), tf.sin(angle)
    center_y, center_x = ((tf.cast(sides[axis], tf.float32) - 1) / 2 for axis in (0, 1))
    shift_x = cos * center_x - center_x - sin * center_y
    shift_y = sin * center_x - center_y + cos * center_y
    return [cos, -sin, shift_x, sin, cos, shift_y]


def shearing_x(strength, sign, sides=None):
    """Shifts each row by 0.3 of its distance from the top at strength 1."""
    return [1.0, sign * strength * 0.3, 0.0, 0.0, 1.0, 0.0]


def shearing_y(strength, sign, sides=None):
    """Shifts each column by 0.3 of its distance from the left at strength 1."""
    return [1.0, 0.0, 0.0, sign * strength * 0.3, 1.0, 0.0]


def _translation_x(strength, sign, sides):
    return [1.0, 0.0, -tf.round(shift(strength, sign, sides[1])), 0.0, 1.0, 0.0]


def _translation_y(strength, sign, sides):
    return [1.0, 0.0, 0.0, 0.0, 1.0, -tf.round(shift(strength, sign, sides[0]))]


def shift(strength, sign, side):
    """Pixels of a translation: 100 of 224 at strength 1; not yet rounded."""
    return sign * strength * 100 * tf.cast(side, tf.float32) / REFERENCE_SIDE


MOVES = {
    "Rotate": rotation,
    "ShearX": shearing_x,
    "ShearY": shearing_y,
    "TranslateX": _translation_x,
    "TranslateY": _translation_y,
}


def moves(operations, level, sides):
    """`(2 * operations, 6) float32`: a matrix for each of these operations from `MOVES`, negative sign, then positive.

    Args:
        operations: their names.
        level: as in `rand_augment`.
        sides: `(height, width)` of the images.
    """
    signs = tf.constant([-1.0, 1.0])  # not Python numbers: the arithmetic is that of `rand_augment`
    return tf.stack([MOVES[name](level / MAX_LEVEL, signs[i], sides) for name in operations for i in range(2)])


def move(images, fill, matrices):
    """`(n, h, w, C) uint8, (n, 6) float32 -> (n, h, w, C) uint8`: affine transforms, nearest-neighbour sampling.

    A matrix is [a, b, c, d, e, f]: output pixel (x, y) is pixel (a x + b y - c, d x + e y - f). Arithmetic and rounding
    are those of ImageProjectiveTransformV3, which repeats them for each channel of each pixel. The shifts are
    subtracted because TensorFlow's graph optimiser would regroup a sum of three terms and so change the rounding.
    """
    count, height, width, channels = tf.unstack(tf.shape(images))
    a, b, c, d, e, f = tf.unstack(matrices[:, :, None, None], 6, axis=1)  # (n, 1, 1)
    x, y = tf.range(width, dtype=tf.float32)[None, :], tf.range(height, dtype=tf.float32)[:, None]
    columns, inside_columns = _nearest(a * x + b * y - c, width)  # (n, h, w)
    rows, inside_rows = _nearest(d * x + e * y - f, height)
    inside = tf.cast(inside_columns & inside_rows, tf.int32)
    outside = count * height * width  # index of an extra pixel that has the fill value
    rows += tf.range(count)[:, None, None] * height
    indices = (rows * width + columns - outside) * inside + outside
    empty = tf.fill((1, channels), tf.constant(fill, tf.uint8))
    return tf.gather(tf.concat([tf.reshape(images, (-1, channels)), empty], 0), indices)


def _nearest(position, size):
    """`float32 -> int32, bool`: positions rounded half up, and whether they are in [0, size)."""
    floor = tf.floor(position)
    rounded = tf.cast(floor + tf.cast(position - floor >= 0.5, tf.float32), tf.int32)
    return rounded, (position > -0.5) & (position < tf.cast(size, tf.float32) - 0.5)

"""Random changes to training images: functions of images and of numbers, which are drawn elsewhere.

Shapes: n images of H x W pixels become h x w; C is 3, or 1 for gray images. Numbers are uniform in [0, 1). Photographs
come one by one (n = 1), small images of one size a batch at a time.

Source: appendix B of arXiv 2105.01601 and big_vision's archived autoaugment for RandAugment; big_vision's
`utils.get_mixup` for mixup; algorithm 1 of arXiv 1905.04899 for CutMix, which is not part of the Mixer paper.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_mixer.training.recipe import RANDAUGMENT_OPERATIONS

CROP_NUMBERS, OPERATION_NUMBERS = 5, 4  # that one image needs for crop and flip, and for an operation of RandAugment
MAX_LEVEL = 10.0  # the level of each operation's nominal maximum; the paper goes to 20
REFERENCE_SIDE = 224  # side of the image in whose pixels translations and cut-outs are measured
# ITU-R 601 in 16-bit fixed point, for each of three channels. All products with pixels and all sums are integers below
# 2^24 divided by 2^16, so float32 represents them exactly.
LUMA = np.array([[19595], [38470], [7471]], np.float32).repeat(3, axis=1) / 65536
ROUNDING = 1 / 64  # pixels are truncated, as in the official code, but not because of a rounding error in a position


def crop_windows(numbers, sides, area, aspect):
    """`(n, 4), (2,) int32 -> (n, 4) int32`: top, left, height and width of random crops.

    The numbers are for the fraction of the area, uniform (less if the crop would stick out), the aspect ratio width /
    height, whose logarithm is uniform (None: that of the image), and the place down and across.
    """
    sides = tf.cast(sides, tf.float32)
    covered = (area[0] + numbers[:, 0] * (area[1] - area[0])) * sides[0] * sides[1]
    ratio = sides[1] / sides[0]
    if aspect is not None:
        low, high = map(math.log, aspect)
        ratio = tf.exp(low + numbers[:, 1] * (high - low))
    size = tf.stack([tf.sqrt(covered / ratio), tf.sqrt(covered * ratio)], 1)  # (n, 2)
    size = tf.clip_by_value(tf.round(size), 1.0, sides)
    place = tf.minimum(tf.floor(numbers[:, 2:4] * (sides - size + 1)), sides - size)
    return tf.cast(tf.concat([place, size], 1), tf.int32)


def crop_and_flip(images, windows, flips, size):
    """`(n, H, W, C) uint8, (n, 4) int32, (n,) bool -> (n, h, w, C) uint8`: windows resized bilinearly, some mirrored.

    Samples are taken at pixel centers without anti-aliasing, as by the official code.
    """
    # A sample may lie half a pixel outside. A concatenation is eight times as fast as tf.pad here.
    images = tf.concat([images[:, :, :1], images, images[:, :, -1:]], 2)
    images = tf.concat([images[:, :1], images, images[:, -1:]], 1)
    wanted = tf.constant(size, tf.float32)
    step = tf.cast(windows[:, 2:], tf.float32) / wanted  # (n, 2)
    first = tf.cast(windows[:, :2], tf.float32) + step / 2 + 0.5  # of the padded image
    last = first + step * (wanted - 1)
    flips = flips[:, None] & tf.constant([False, True])
    corners = tf.concat([tf.where(flips, last, first), tf.where(flips, first, last)], 1)  # (n, 4)
    boxes = corners / tf.cast(tf.tile(tf.shape(images)[1:3] - 1, [2]), tf.float32)
    pixels = tf.image.crop_and_resize(images, boxes, tf.range(tf.shape(images)[0]), size)
    return tf.cast(pixels + ROUNDING, tf.uint8)


def rand_augment(images, numbers, level=15.0, operations=None, fill=128):
    """`(n, h, w, 3) uint8, (n, k, 4) -> (n, h, w, 3) uint8`: k operations in sequence, drawn with replacement.

    The numbers are for each operation its choice, its sign, and a place down and across. The level is 0 to 20, the
    paper uses 10, 15 and 20; no names of operations mean all sixteen; pixels that become empty are `fill`.
    """
    chosen = [OPERATIONS[name] for name in operations or RANDAUGMENT_OPERATIONS]
    strength = level / MAX_LEVEL
    for step in tf.unstack(numbers, axis=1):
        choice = tf.cast(step[:, 0] * len(chosen), tf.int32)
        sign = tf.where(step[:, 1] < 0.5, -1.0, 1.0)
        if images.shape[0] == 1:
            branches = [functools.partial(operation, images, strength, sign, step[:, 2:], fill) for operation in chosen]
            changed = tf.switch_case(choice[0], branches)
        else:
            rows = tf.dynamic_partition(tf.range(tf.shape(images)[0]), choice, len(chosen))
            parts = [
                operation(tf.gather(images, of), strength, tf.gather(sign, of), tf.gather(step[:, 2:], of), fill)
                for operation, of in zip(chosen, rows, strict=True)
            ]
            changed = tf.dynamic_stitch(rows, parts)
        images = tf.ensure_shape(changed, images.shape)
    return images


# Each operation: (images (n, h, w, 3) uint8, strength = level / MAX_LEVEL, sign (n,), place (n, 2), fill) -> images.
#
# They run for every training image and limit the speed of the input pipeline. On CPUs, TensorFlow is fast at plain
# float arithmetic on long rows and at copies. It is ten times slower at tf.where, at products and minima of uint8, on a
# short last axis, and in ImageProjectiveTransformV3.


def _auto_contrast(images, strength, sign, place, fill):
    pixels = tf.cast(images, tf.float32)
    low, high = (reduce(reduce(pixels, 1, True), 2, True) for reduce in (tf.reduce_min, tf.reduce_max))  # (n, 1, 1, 3)
    flat = high <= low  # channels of one value stay unchanged
    low, high = tf.where(flat, 0.0, low), tf.where(flat, 255.0, high)
    return _to_uint8((pixels - _as_row(low, images)) * _as_row(255.0 / (high - low), images))


def _equalize(images, strength, sign, place, fill):
    """Flattens each channel's histogram. Pillow leaves out the last non-empty bin, and so do we; KerasCV the first."""
    count, pixels = tf.shape(images)[0], tf.reduce_prod(tf.shape(images)[1:3])
    first = 256 * tf.reshape(tf.range(3 * count), (count, 1, 1, 3))  # bin of each channel
    bins = tf.cast(images, tf.int32) + _as_row(first, images)
    none = tf.zeros((0,), tf.int32)
    # tf.math.bincount would first check for negative numbers
    histogram = tf.raw_ops.DenseBincount(input=tf.reshape(bins, [-1]), size=768 * count, weights=none)
    lower = tf.cumsum(tf.reshape(histogram, (-1, 256)), 1, exclusive=True)  # pixels with a lower value, (3n, 256)
    step = tf.reduce_max(tf.where(lower < pixels, lower, 0), 1, keepdims=True) // 255
    tables = tf.where(step > 0, tf.minimum((lower + step // 2) // tf.maximum(step, 1), 255), tf.range(256))
    return tf.gather(tf.reshape(tf.cast(tables, tf.uint8), [-1]), bins)


def _invert(images, strength, sign, place, fill):
    return 255 - images


def _posterize(images, strength, sign, place, fill):
    """Drops the low bits; on the paper's scale int(strength * 4) is the number of bits kept."""
    bits = min(int(strength * 4), 8)
    if bits == 0:
        return tf.zeros_like(images)
    return _by_keras_cv("Posterization", images, bits=bits)


def _solarize(images, strength, sign, place, fill):
    """Inverts pixels at or above int(strength * 256); from strength 1 on there are none."""
    threshold = float(int(strength * 256))
    return _by_keras_cv("Solarization", images, threshold_factor=(threshold, threshold)) if strength < 1 else images


def _solarize_add(images, strength, sign, place, fill):
    pixels = tf.cast(images, tf.float32)
    return _to_uint8(pixels + tf.cast(pixels < 128, tf.float32) * int(strength * 110))


def _color(images, strength, sign, place, fill):
    return _enhance(_gray(images), images, strength)


def _contrast(images, strength, sign, place, fill):
    total = tf.reduce_sum(tf.cast(_gray(images), tf.int32), (1, 2, 3), keepdims=True)  # (n, 1, 1, 1)
    mean = tf.round(tf.cast(total / tf.reduce_prod(tf.shape(images)[1:]), tf.float32))
    return _enhance(mean, images, strength)


def _brightness(images, strength, sign, place, fill):
    return _enhance(0.0, images, strength)


def _sharpness(images, strength, sign, place, fill):
    pixels = tf.cast(images, tf.float32)
    inside, of_three = pixels[:, 1:-1, 1:-1], pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    of_nine = of_three[:, :, :-2] + of_three[:, :, 1:-1] + of_three[:, :, 2:]
    smooth = tf.floor((of_nine + 4.0 * inside) * (1 / 13) + 0.5)  # kernel of ones, 5 in the middle
    change = tf.pad(smooth - inside, [[0, 0], [1, 1], [1, 1], [0, 0]])  # none at the border
    return _enhance(pixels + change, pixels, strength)


def _rotate(images, strength, sign, place, fill):
    """Rotates by 30 degrees at strength 1, about the center."""
    angle = sign * strength * math.radians(30)
    cos, sin = tf.cos(angle), tf.sin(angle)
    y, x = tf.unstack(tf.cast(tf.shape(images)[1:3] - 1, tf.float32) / 2)
    return _warp(images, fill, [cos, -sin, cos * x - x - sin * y, sin, cos, sin * x - y + cos * y])


def _shear(images, strength, sign, place, fill, axis):
    """Shifts each column (axis 1) or row (axis 2) by 0.3 of its distance from the left or the top at strength 1."""
    slope = sign * strength * 0.3
    return _warp(images, fill, [1.0, 0.0, 0.0, slope, 1.0, 0.0] if axis == 1 else [1.0, slope, 0.0, 0.0, 1.0, 0.0])


def _translate(images, strength, sign, place, fill, axis):
    """Shifts by 100 of 224 pixels at strength 1, along axis 1 (rows) or 2 (columns)."""
    count, size = tf.shape(images)[0], tf.shape(images)[axis]
    shift = tf.cast(tf.round(strength * 100 * tf.cast(size, tf.float32) / REFERENCE_SIDE), tf.int32)  # < size
    empty = tf.fill(tf.shape(tf.split(images, [shift, size - shift], axis)[0]), tf.constant(fill, tf.uint8))
    wide = tf.concat([empty, images, empty], axis)
    forward, backward = tf.split(wide, [size, 2 * shift], axis)[0], tf.split(wide, [2 * shift, size], axis)[1]
    either = tf.concat([forward, backward], 0)  # (2n, h, w, 3)
    return tf.gather(either, tf.range(count) + count * tf.cast(sign > 0, tf.int32))


def _cutout(images, strength, sign, place, fill):
    """Fills a square with half side int(strength * 40), in pixels of a 224 px image, and its center anywhere."""
    sides = tf.cast(tf.shape(images)[1:3], tf.float32)
    half = tf.floor(int(strength * 40) * tf.reduce_min(sides) / REFERENCE_SIDE)
    center = tf.floor(place * sides)  # (n, 2)
    rows, columns = (
        tf.cast(tf.abs(tf.range(sides[axis]) + 0.5 - center[:, axis, None]) < half, tf.float32) for axis in (0, 1)
    )
    square = rows[:, :, None, None] * tf.repeat(columns[:, None, :, None], 3, axis=3)  # (n, h, w, 3), 1 inside
    pixels = tf.cast(images, tf.float32)
    return tf.cast(pixels + square * (fill - pixels), tf.uint8)


FUNCTIONS: tuple[Callable, ...] = (
    *(_auto_contrast, _equalize, _invert, _rotate, _posterize, _solarize, _color, _contrast, _brightness, _sharpness),
    *(functools.partial(move, axis=axis) for move in (_shear, _translate) for axis in (2, 1)),  # X is axis 2
    *(_cutout, _solarize_add),
)
OPERATIONS = dict(zip(RANDAUGMENT_OPERATIONS, FUNCTIONS, strict=True))


def mixup(images, labels, partners, fraction):
    """`(n, h, w, 3), (n, classes) -> the same`: blends each image with its partner, which gets 1 - `fraction`.

    `partners`, `(n,)`, are indices of images.
    """
    return _mixed(tf.cast(images, tf.float32), partners, fraction), _mixed(labels, partners, fraction)


def cutmix(images, labels, partners, fraction, center):
    """`(n, h, w, 3), (n, classes) -> the same`: replaces a rectangle of each image by that of its partner.

    It covers `fraction` of the image about `center`, `(2,)` numbers, cut off outside; labels follow what is left.
    """
    sides = tf.cast(tf.shape(images)[1:3], tf.float32)
    half = tf.sqrt(fraction) * sides / 2
    first, last = tf.floor(center * sides - half), tf.floor(center * sides + half)
    rows, columns = tf.range(sides[0])[:, None, None], tf.range(sides[1])[:, None]
    inside = (rows >= first[0]) & (rows < last[0]) & (columns >= first[1]) & (columns < last[1])  # (h, w, 1)
    images = tf.cast(images, tf.float32)
    kept = 1 - tf.reduce_mean(tf.cast(inside, tf.float32))
    return tf.where(inside, tf.gather(images, partners), images), _mixed(labels, partners, kept)


def _mixed(values, partners, fraction):
    return fraction * values + (1 - fraction) * tf.gather(values, partners)


def _by_keras_cv(layer, images, **options):
    """A layer of KerasCV that treats each pixel alone: all images are one tall image for it."""
    import keras_cv  # takes a second, needed only here

    layer = getattr(keras_cv.layers, layer)(value_range=(0, 255), dtype="float32", **options)
    tall = tf.reshape(images, (-1, tf.shape(images)[2], 3))
    return tf.cast(tf.reshape(layer(tall), tf.shape(images)), tf.uint8)


def _warp(images, fill, matrix):
    """Pixel (x, y) becomes (a x + b y - c, d x + e y - f), the nearest one; each entry is a number or `(n,)`."""
    # As ImageProjectiveTransformV3, which is slower. TensorFlow's graph optimizer would regroup a sum of three terms.
    count, height, width, channels = tf.unstack(tf.shape(images))
    a, b, c, d, e, f = (tf.reshape(tf.broadcast_to(entry, (count,)), (count, 1, 1)) for entry in matrix)
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


def _as_row(values, images):
    """`(n, 1, 1, 3) -> (n, 1, w, 3)`."""
    return tf.tile(values, (1, 1, tf.shape(images)[2], 1))


def _gray(images):
    """`(n, h, w, 3) uint8 -> (n, h, w, 3) float32`: Pillow's "L", bit for bit."""
    return tf.floor(tf.tensordot(tf.cast(images, tf.float32), LUMA, 1) + 0.5)


def _enhance(degenerate, images, strength):
    """As Pillow's ImageEnhance: a factor of 0 gives `degenerate`, 1 the images, and more extrapolates beyond them."""
    return _to_uint8(degenerate + (strength * 1.8 + 0.1) * (tf.cast(images, tf.float32) - degenerate))


def _to_uint8(pixels):
    return tf.cast(tf.clip_by_value(pixels, 0, 255), tf.uint8)

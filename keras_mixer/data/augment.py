"""Random changes to training images: functions of images and of numbers, which are drawn elsewhere.

Shapes: n images of H x W pixels become h x w; C is 3, or 1 for gray images. Numbers are uniform in [0, 1). Photographs
come one by one (n = 1), small images of one size a batch at a time.

Source: appendix B of arXiv 2105.01601 and big_vision's archived autoaugment for RandAugment; big_vision's
`utils.get_mixup` for mixup; algorithm 1 of arXiv 1905.04899 for CutMix, which is not part of the Mixer paper.
"""

import math

import numpy as np
import tensorflow as tf

from keras_mixer.training.recipe import RANDAUGMENT_OPERATIONS

CROP_NUMBERS, OPERATION_NUMBERS = 5, 4  # that one image needs for crop and flip, and for an operation of RandAugment
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
    """`(n, h, w, 3) uint8, (n, 4 k) -> (n, h, w, 3) uint8`: k operations in sequence, drawn with replacement.

    The numbers are for each operation its choice, its sign, and a place down and across. The level is 0 to 20, the
    paper uses 10, 15 and 20; no names of operations mean all sixteen; pixels that become empty are `fill`.
    """
    names = operations or RANDAUGMENT_OPERATIONS
    for first in range(0, numbers.shape[1], OPERATION_NUMBERS):
        choice = tf.cast(numbers[:, first] * len(names), tf.int32)
        others = numbers[:, first + 1 : first + OPERATION_NUMBERS]
        if images.shape[0] == 1:
            possible = operations_on(images, others, level, fill)
            changed = tf.switch_case(choice[0], [possible[name] for name in names])
        else:
            rows = tf.dynamic_partition(tf.range(tf.shape(images)[0]), choice, len(names))
            parts = [
                operations_on(tf.gather(images, of), tf.gather(others, of), level, fill)[name]()
                for name, of in zip(names, rows, strict=True)
            ]
            changed = tf.dynamic_stitch(rows, parts)
        images = tf.ensure_shape(changed, images.shape)
    return images


def operations_on(images, numbers, level, fill):
    """`(n, h, w, 3) uint8, (n, 3) -> {operation: function without arguments that returns (n, h, w, 3) uint8}`.

    The numbers are for the sign, and a place down and across.
    """
    strength = level / 10  # 1 is the nominal maximum; the paper goes to 2
    sign, place = tf.where(numbers[:, 0] < 0.5, -1.0, 1.0)[:, None, None], numbers[:, 1:]  # (n, 1, 1), (n, 2)
    slope = sign * (np.float32(strength) * np.float32(0.3))  # one constant: the graph optimizer regroups products
    factor, bits = strength * 1.8 + 0.1, int(strength * 4)
    return {
        "AutoContrast": lambda: _auto_contrast(images),
        "Equalize": lambda: _equalize(images),
        "Invert": lambda: 255 - images,
        "Rotate": lambda: _rotate(images, sign * strength * math.radians(30), fill),
        "Posterize": lambda: _by_keras_cv("Posterization", images, bits=bits) if bits else tf.zeros_like(images),
        "Solarize": lambda: _solarize(images, float(int(strength * 256))),
        "Color": lambda: _enhance(images, _gray(images), factor),
        "Contrast": lambda: _enhance(images, _mean_gray(images), factor),
        "Brightness": lambda: _enhance(images, 0.0, factor),
        "Sharpness": lambda: _enhance(images, _smooth(images), factor),
        "ShearX": lambda: _warp(images, lambda x, y: (x + slope * y, y), fill),
        "ShearY": lambda: _warp(images, lambda x, y: (x, slope * x + y), fill),
        "TranslateX": lambda: _translate(images, sign, strength * 100, fill, axis=2),
        "TranslateY": lambda: _translate(images, sign, strength * 100, fill, axis=1),
        "Cutout": lambda: _cutout(images, place, int(strength * 40), fill),
        "SolarizeAdd": lambda: _solarize_add(images, int(strength * 110)),
    }


# The operations run for every training image and limit the speed of the input pipeline. On CPUs, TensorFlow is fast at
# plain float arithmetic on long rows and at copies. It is ten times slower at tf.where, at products and minima of
# uint8, on a short last axis, and in ImageProjectiveTransformV3.


def _auto_contrast(images):
    pixels = tf.cast(images, tf.float32)
    low, high = (reduce(reduce(pixels, 1, True), 2, True) for reduce in (tf.reduce_min, tf.reduce_max))  # (n, 1, 1, 3)
    flat = high <= low  # channels of one value stay unchanged
    low, high = tf.where(flat, 0.0, low), tf.where(flat, 255.0, high)
    return _to_uint8((pixels - _as_row(low, images)) * _as_row(255.0 / (high - low), images))


def _equalize(images):
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


def _as_row(values, images):
    """`(n, 1, 1, 3) -> (n, 1, w, 3)`."""
    return tf.tile(values, (1, 1, tf.shape(images)[2], 1))


def _solarize(images, threshold):
    """Inverts pixels at or above the threshold."""
    return images if threshold > 255 else _by_keras_cv("Solarization", images, threshold_factor=(threshold, threshold))


def _by_keras_cv(layer, images, **options):
    """A layer of KerasCV that treats each pixel alone: all images are one tall image for it."""
    import keras_cv  # takes a second, needed only here

    layer = getattr(keras_cv.layers, layer)(value_range=(0, 255), dtype="float32", **options)
    tall = tf.reshape(images, (-1, tf.shape(images)[2], 3))
    return tf.cast(tf.reshape(layer(tall), tf.shape(images)), tf.uint8)


def _solarize_add(images, addition):
    pixels = tf.cast(images, tf.float32)
    return _to_uint8(pixels + tf.cast(pixels < 128, tf.float32) * addition)


def _enhance(images, degenerate, factor):
    """As Pillow's ImageEnhance: a factor of 0 gives `degenerate`, 1 the images, and more extrapolates beyond them."""
    return _to_uint8(degenerate + factor * (tf.cast(images, tf.float32) - degenerate))


def _to_uint8(pixels):
    return tf.cast(tf.clip_by_value(pixels, 0, 255), tf.uint8)


def _gray(images):
    """`(n, h, w, 3) uint8 -> (n, h, w, 3) float32`: Pillow's "L", bit for bit."""
    return tf.floor(tf.tensordot(tf.cast(images, tf.float32), LUMA, 1) + 0.5)


def _mean_gray(images):
    total = tf.reduce_sum(tf.cast(_gray(images), tf.int32), (1, 2, 3), keepdims=True)  # (n, 1, 1, 1)
    return tf.round(tf.cast(total / tf.reduce_prod(tf.shape(images)[1:]), tf.float32))


def _smooth(images):
    """`uint8 -> float32`: blurred by a kernel of ones with 5 in the middle, but for the border."""
    pixels = tf.cast(images, tf.float32)
    inside, of_three = pixels[:, 1:-1, 1:-1], pixels[:, :-2] + pixels[:, 1:-1] + pixels[:, 2:]
    of_nine = of_three[:, :, :-2] + of_three[:, :, 1:-1] + of_three[:, :, 2:]
    change = tf.floor((of_nine + 4.0 * inside) * (1 / 13) + 0.5) - inside
    return pixels + tf.pad(change, [[0, 0], [1, 1], [1, 1], [0, 0]])


def _rotate(images, angle, fill):
    """Rotates by angles `(n, 1, 1)` about the center."""
    cos, sin = tf.cos(angle), tf.sin(angle)
    y0, x0 = tf.unstack(tf.cast(tf.shape(images)[1:3] - 1, tf.float32) / 2)
    # Differences, because TensorFlow's graph optimizer would regroup a sum of three terms.
    left, top = cos * x0 - x0 - sin * y0, sin * x0 - y0 + cos * y0
    return _warp(images, lambda x, y: (cos * x - sin * y - left, sin * x + cos * y - top), fill)


def _warp(images, source, fill):
    """Pixel (x, y) becomes the one nearest to `source(x, y)`; all are float32 that broadcast to `(n, h, w)`."""
    count, height, width, channels = tf.unstack(tf.shape(images))
    x, y = source(tf.range(width, dtype=tf.float32)[None, :], tf.range(height, dtype=tf.float32)[:, None])
    wide = tf.pad(images, [[0, 0], [1, 0], [1, 0], [0, 0]], constant_values=fill)  # row and column 0 are outside
    rows = tf.range(count)[:, None, None] * (height + 1) + _nearest(y, height)
    return tf.gather(tf.reshape(wide, (-1, channels)), rows * (width + 1) + _nearest(x, width))


def _nearest(position, size):
    """`float32 -> int32`: 1 + the position rounded half up, or 0 if it is outside [0, size)."""
    floor = tf.floor(position)
    rounded = floor + tf.cast(position - floor >= 0.5, tf.float32)
    inside = (position > -0.5) & (position < tf.cast(size, tf.float32) - 0.5)
    return tf.cast((1 + rounded) * tf.cast(inside, tf.float32), tf.int32)


def _translate(images, sign, shift, fill, axis):
    """Shifts along axis 1 (rows) or 2 (columns), by pixels of a 224 px image."""
    count, size = tf.shape(images)[0], tf.shape(images)[axis]
    shift = tf.cast(tf.round(shift * tf.cast(size, tf.float32) / REFERENCE_SIDE), tf.int32)  # < size
    empty = tf.fill(tf.shape(tf.split(images, [shift, size - shift], axis)[0]), tf.constant(fill, tf.uint8))
    wide = tf.concat([empty, images, empty], axis)
    forward, backward = tf.split(wide, [size, 2 * shift], axis)[0], tf.split(wide, [2 * shift, size], axis)[1]
    either = tf.concat([forward, backward], 0)  # (2n, h, w, 3)
    return tf.gather(either, tf.range(count) + count * tf.cast(sign[:, 0, 0] > 0, tf.int32))


def _cutout(images, place, half, fill):
    """Fills a square with its center anywhere; half its side is in pixels of a 224 px image."""
    sides = tf.cast(tf.shape(images)[1:3], tf.float32)
    half, center = tf.floor(half * tf.reduce_min(sides) / REFERENCE_SIDE), tf.floor(place * sides)
    square = _rectangles(sides, center - half, center + half)
    pixels = tf.cast(images, tf.float32)
    return tf.cast(pixels + square * (fill - pixels), tf.uint8)


def _rectangles(sides, first, last):
    """`(2,), (n, 2), (n, 2) -> (n, h, w, 3)`: 1 from the first row and column up to the last ones, excluded; else 0."""
    places = [tf.range(side) for side in tf.unstack(sides)]
    inside = [(at >= first[:, axis, None]) & (at < last[:, axis, None]) for axis, at in enumerate(places)]
    rows, columns = (tf.cast(one, tf.float32) for one in inside)  # (n, h), (n, w)
    return rows[:, :, None, None] * tf.repeat(columns[:, None, :, None], 3, axis=3)


def mixup(values, partners, fraction):
    """`(n, ...) float32 -> the same`: blends images or labels with those of their partners, which get 1 - `fraction`.

    `partners`, `(n,)`, are indices.
    """
    return fraction * values + (1 - fraction) * tf.gather(values, partners)


def cutmix(images, labels, partners, fraction, center):
    """`(n, h, w, 3), (n, classes) float32 -> the same`: replaces a rectangle of each image by that of its partner.

    It covers `fraction` of the image about `center`, `(2,)` numbers, cut off outside; labels follow what is left.
    """
    sides = tf.cast(tf.shape(images)[1:3], tf.float32)
    half = tf.sqrt(fraction) * sides / 2
    cut = _rectangles(sides, tf.floor(center * sides - half)[None], tf.floor(center * sides + half)[None])
    return mixup(images, partners, 1 - cut), mixup(labels, partners, 1 - tf.reduce_mean(cut))

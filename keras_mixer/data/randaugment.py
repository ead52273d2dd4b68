"""RandAugment as in the paper's code, as a function of an explicit seed.

Nothing here has random state: the same seed gives the same image, on both backends and in a resumed run. KerasCV's
`RandAugment` is not used because it has its own state and limits the magnitude to 1, while the paper goes to 2. Its
Posterize and Solarize have no randomness and equal Pillow bit for bit, so they are used here.

Source: appendix B of arXiv 2105.01601; big_vision's archived autoaugment.
"""

import dataclasses
import functools

import keras_cv
import tensorflow as tf

from keras_mixer.data.moves import MAX_LEVEL, REFERENCE_SIDE, move, rotation, shearing_x, shearing_y, shift
from keras_mixer.data.settings import RANDAUGMENT_OPERATIONS


def rand_augment(image, seed, num_ops=2, level=15.0, operations=None, fill=128):
    """`(h, w, 3) uint8 -> (h, w, 3) uint8`: applies `num_ops` operations, drawn with replacement, in sequence.

    Args:
        image: pixels in [0, 255].
        seed: `(2,)` int; the same seed gives the same image.
        num_ops: number of operations.
        level: strength in tenths of the nominal range, 0 to 20; the paper uses 10, 15 and 20.
        operations: names from `RANDAUGMENT_OPERATIONS`, or None for all sixteen.
        fill: grey value for pixels that an operation leaves empty; the paper uses 128.

    Raises:
        ValueError: an operation is unknown; the message lists the valid ones.
    """
    names = tuple(OPERATIONS) if operations is None else tuple(operations)
    unknown = [name for name in names if name not in OPERATIONS]
    if unknown or not names:
        raise ValueError(f"Unknown RandAugment operations {unknown}; valid ones are {', '.join(OPERATIONS)}.")
    shape = image.shape
    for draw in range(num_ops):
        seeds = tf.random.split(tf.random.fold_in(seed, draw), 2)  # (2, 2)
        choice = tf.random.stateless_uniform((), seeds[0], 0, len(names), tf.int32)
        sign = tf.where(tf.random.stateless_uniform((), seeds[1]) < 0.5, -1.0, 1.0)
        geometry = GeometryParameters(sign, seeds[1], fill)
        branches = [functools.partial(OPERATIONS[name], image, level / MAX_LEVEL, geometry) for name in names]
        image = tf.ensure_shape(tf.switch_case(choice, branches), shape)
    return image


@dataclasses.dataclass(frozen=True)
class GeometryParameters:
    """What geometric operations need besides their strength.

    Attributes:
        sign: direction, +1 or -1.
        seed: `(2,)` int, for the position of a cut-out.
        fill: grey value for empty pixels.
    """

    sign: tf.Tensor
    seed: tf.Tensor
    fill: int


# Each operation: (image (h, w, 3) uint8, strength = level / MAX_LEVEL, geometry) -> image (h, w, 3) uint8.


def _auto_contrast(image, strength, geometry):
    rows = tf.cast(_rows(image), tf.float32)  # (h, 3w)
    low, high = (_reduce_channels(reduce, rows) for reduce in (tf.reduce_min, tf.reduce_max))
    flat = high <= low  # (3,): channels of one value stay unchanged
    scale = tf.where(flat, 1.0, 255.0 / tf.where(flat, 1.0, high - low))
    stretched = (rows - _repeat_channels(tf.where(flat, 0.0, low), image)) * _repeat_channels(scale, image)
    return tf.reshape(_to_uint8(stretched), tf.shape(image))


def _equalize(image, strength, geometry):
    """Flattens each channel's histogram. Pillow leaves out the last non-empty bin, and so do we; KerasCV the first."""
    bins = tf.cast(_rows(image), tf.int32) + _repeat_channels(tf.constant([0, 256, 512]), image)  # (h, 3w)
    none = tf.zeros((0,), tf.int32)
    # tf.math.bincount would first check for negative numbers
    histogram = tf.raw_ops.DenseBincount(input=tf.reshape(bins, [-1]), size=768, weights=none)
    histogram = tf.reshape(histogram, (3, 256))
    last = 255 - tf.argmax(tf.reverse(histogram > 0, [1]), axis=1, output_type=tf.int32)  # last non-empty bin
    step = (tf.reduce_sum(histogram, 1) - tf.gather(histogram, last, batch_dims=1)) // 255
    tables = (tf.cumsum(histogram, 1, exclusive=True) + step[:, None] // 2) // tf.maximum(step, 1)[:, None]
    tables = tf.where(step[:, None] > 0, tf.minimum(tables, 255), tf.range(256))
    return tf.reshape(tf.gather(tf.reshape(tf.cast(tables, tf.uint8), [-1]), bins), tf.shape(image))


def _invert(image, strength, geometry):
    return 255 - image


def _posterize(image, strength, geometry):
    """Drops the low bits; on the paper's scale int(strength * 4) is the number of bits kept."""
    bits = min(int(strength * 4), 8)
    if bits == 0:
        return tf.zeros_like(image)
    return tf.cast(keras_cv.layers.Posterization((0, 255), bits=bits, dtype="float32")(image), tf.uint8)


def _solarize(image, strength, geometry):
    """Inverts pixels at or above int(strength * 256); from strength 1 on there are none."""
    threshold = keras_cv.core.ConstantFactorSampler(float(int(strength * 256)))
    layer = keras_cv.layers.Solarization(value_range=(0, 255), threshold_factor=threshold, dtype="float32")
    return tf.cast(layer(image), tf.uint8) if strength < 1 else image


def _solarize_add(image, strength, geometry):
    pixels = tf.cast(image, tf.float32)
    return _to_uint8(pixels + tf.cast(pixels < 128, tf.float32) * int(strength * 110))


def _color(image, strength, geometry):
    grey = tf.broadcast_to(_grey(image)[..., None], tf.shape(image))
    return _blend(grey, image, strength * 1.8 + 0.1)


def _contrast(image, strength, geometry):
    grey = _grey(image)
    total = tf.reduce_sum(tf.cast(grey, tf.int32))
    return _blend(tf.round(tf.cast(total / tf.size(grey), tf.float32)), image, strength * 1.8 + 0.1)


def _brightness(image, strength, geometry):
    return _blend(0.0, image, strength * 1.8 + 0.1)


def _sharpness(image, strength, geometry):
    rows = tf.cast(_rows(image), tf.float32)  # (h, 3w): horizontal neighbours are three entries apart
    of_three = rows[:-2] + rows[1:-1] + rows[2:]  # (h - 2, 3w)
    of_nine = of_three[:, :-6] + of_three[:, 3:-3] + of_three[:, 6:]  # (h - 2, 3w - 6)
    inside = rows[1:-1, 3:-3]
    smooth = tf.floor((of_nine + 4.0 * inside) * (1 / 13) + 0.5)  # kernel of ones, 5 in the middle
    sharp = _to_uint8(smooth + (strength * 1.8 + 0.1) * (inside - smooth))
    original = _rows(image)  # the border is not changed
    middle = tf.concat([original[1:-1, :3], sharp, original[1:-1, -3:]], 1)
    return tf.reshape(tf.concat([original[:1], middle, original[-1:]], 0), tf.shape(image))


def _rotate(image, strength, geometry):
    return _affine(image, geometry, rotation(strength, geometry.sign, tf.shape(image)[:2]))


def _shear_x(image, strength, geometry):
    return _affine(image, geometry, shearing_x(strength, geometry.sign))


def _shear_y(image, strength, geometry):
    return _affine(image, geometry, shearing_y(strength, geometry.sign))


def _translate_x(image, strength, geometry):
    return _translate(image, shift(strength, geometry.sign, tf.shape(image)[1]), geometry.fill, axis=1)


def _translate_y(image, strength, geometry):
    return _translate(image, shift(strength, geometry.sign, tf.shape(image)[0]), geometry.fill, axis=0)


def _cutout(image, strength, geometry):
    """Fills a square with half side int(strength * 40), in pixels of a 224 px image, and its centre anywhere."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    half = tf.cast(int(strength * 40) * tf.minimum(height, width) / REFERENCE_SIDE, tf.int32)
    centre = tf.random.stateless_uniform((2,), geometry.seed)
    centre_y = tf.cast(centre[0] * tf.cast(height, tf.float32), tf.int32)
    centre_x = tf.cast(centre[1] * tf.cast(width, tf.float32), tf.int32)
    top, bottom = (tf.clip_by_value(centre_y + edge, 0, height) for edge in (-half, half))
    left, right = (tf.clip_by_value(centre_x + edge, 0, width) for edge in (-half, half))
    square = tf.fill((bottom - top, right - left, 3), tf.constant(geometry.fill, tf.uint8))
    middle = tf.concat([image[top:bottom, :left], square, image[top:bottom, right:]], 1)
    return tf.ensure_shape(tf.concat([image[:top], middle, image[bottom:]], 0), image.shape)


FUNCTIONS = (
    *(_auto_contrast, _equalize, _invert, _rotate, _posterize, _solarize, _color, _contrast),
    *(_brightness, _sharpness, _shear_x, _shear_y, _translate_x, _translate_y, _cutout, _solarize_add),
)
OPERATIONS = dict(zip(RANDAUGMENT_OPERATIONS, FUNCTIONS, strict=True))


# The functions below run for every training image and limit the speed of the input pipeline. On CPUs, TensorFlow is
# fast at plain float arithmetic on long rows and at copies. It is ten times slower at tf.where, at products and minima
# of uint8, on a short last axis, and in ImageProjectiveTransformV3.


def _rows(image):
    """`(h, w, 3) -> (h, 3w)`."""
    return tf.reshape(image, (tf.shape(image)[0], -1))


def _repeat_channels(values, image):
    """`(3,) -> (3w,)`: the values of the three channels, repeated for each pixel of a row."""
    return tf.tile(values, (tf.shape(image)[1],))


def _reduce_channels(reduce, rows):
    """`(h, 3w) -> (3,)`."""
    return reduce(tf.reshape(reduce(rows, axis=0), (-1, 3)), axis=0)


def _translate(image, shift, fill, axis):
    """Row (axis 0) or column (axis 1) i of the result is row or column i + round(shift) of the image."""
    size = tf.shape(image)[axis]
    shift = tf.clip_by_value(tf.cast(tf.round(shift), tf.int32), -size, size)
    first, last = tf.maximum(shift, 0), size + tf.minimum(shift, 0)
    kept = image[first:last] if axis == 0 else image[:, first:last]
    padding = [(0, 0), (0, 0), (0, 0)]
    padding[axis] = (tf.maximum(-shift, 0), tf.maximum(shift, 0))
    return tf.ensure_shape(tf.pad(kept, padding, constant_values=fill), image.shape)


def _affine(image, geometry, matrix):
    return move(image[None], geometry.fill, tf.stack(matrix)[None])[0]


def _grey(image):
    """`(h, w, 3) -> (h, w) float32`: Pillow's "L", ITU-R 601 luma in 16-bit fixed point, bit for bit.

    All products and sums are integers below 2^24 divided by 2^16, so float32 represents them exactly.
    """
    red, green, blue = tf.unstack(tf.cast(image, tf.float32), axis=-1)
    return tf.floor(red * (19595 / 65536) + green * (38470 / 65536) + blue * (7471 / 65536) + 0.5)


def _blend(degenerate, image, factor):
    """`factor` 0 gives `degenerate`, 1 gives the image, and more than 1 extrapolates beyond it."""
    return _to_uint8(degenerate + factor * (tf.cast(image, tf.float32) - degenerate))


def _to_uint8(pixels):
    return tf.cast(tf.clip_by_value(pixels, 0, 255), tf.uint8)

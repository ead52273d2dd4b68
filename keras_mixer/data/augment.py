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

MAX_LEVEL = 10.0  # levels count in tenths of each operation's nominal range; the paper goes to 20
REFERENCE_SIDE = 224  # translations and cut-outs are given in pixels of an image of this side


def rand_augment(image, seed, num_ops=2, level=15.0, operations=None, fill=128):
    """`(h, w, 3) uint8 -> (h, w, 3) uint8`: `num_ops` operations drawn with replacement, one after the other.

    Args:
        image: pixels in [0, 255].
        seed: `(2,)` int; the same seed gives the same picture.
        num_ops: how many operations.
        level: strength in tenths of the nominal range, 0 to 20; the paper uses 10, 15 and 20.
        operations: names out of `OPERATIONS`, or None for all sixteen.
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
    low, high = (tf.cast(reduce(image, axis=(0, 1)), tf.float32) for reduce in (tf.reduce_min, tf.reduce_max))
    scale = tf.math.divide_no_nan(255.0, high - low)
    stretched = (tf.cast(image, tf.float32) - low) * scale
    return tf.where(high > low, _to_uint8(stretched), image)  # a flat channel stays


def _equalize(image, strength, move):
    """Flattens each channel's histogram. KerasCV's differs: smallest filled bin where Pillow takes the last one."""

    def lookup(channel):  # (h, w) int32 -> (256,) int32
        histogram = tf.math.bincount(tf.reshape(channel, [-1]), minlength=256, maxlength=256)
        last = histogram[tf.reduce_max(channel)]
        step = (tf.reduce_sum(histogram) - last) // 255
        table = (tf.cumsum(histogram, exclusive=True) + step // 2) // tf.maximum(step, 1)
        return tf.where(step > 0, tf.minimum(table, 255), tf.range(256))

    channels = tf.unstack(tf.cast(image, tf.int32), axis=-1)
    return tf.cast(tf.stack([tf.gather(lookup(channel), channel) for channel in channels], axis=-1), tf.uint8)


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
    brighter = _to_uint8(tf.cast(image, tf.float32) + int(strength * 110))
    return tf.where(image < 128, brighter, image)


def _color(image, strength, move):
    return _blend(_grey(image), image, strength * 1.8 + 0.1)


def _contrast(image, strength, move):
    mean = tf.round(tf.reduce_mean(tf.cast(_grey(image), tf.float32)))
    return _blend(tf.fill(tf.shape(image), tf.cast(mean, tf.uint8)), image, strength * 1.8 + 0.1)


def _brightness(image, strength, move):
    return _blend(tf.zeros_like(image), image, strength * 1.8 + 0.1)


def _sharpness(image, strength, move):
    kernel = tf.constant([[1, 1, 1], [1, 5, 1], [1, 1, 1]], tf.float32)[:, :, None, None] / 13.0
    kernel = tf.tile(kernel, (1, 1, 3, 1))  # (3, 3, 3, 1): the same smoothing for each channel
    pixels = tf.cast(image, tf.float32)[None]
    smooth = tf.nn.depthwise_conv2d(pixels, kernel, (1, 1, 1, 1), "VALID")[0]
    inside = tf.pad(tf.ones_like(smooth, tf.bool), ((1, 1), (1, 1), (0, 0)))
    smooth = tf.where(inside, tf.pad(_to_uint8(smooth + 0.5), ((1, 1), (1, 1), (0, 0))), image)  # the border stays
    return _blend(smooth, image, strength * 1.8 + 0.1)


def _rotate(image, strength, move):
    angle = move.sign * strength * math.radians(30)
    cos, sin = tf.cos(angle), tf.sin(angle)
    center_y, center_x = ((tf.cast(side, tf.float32) - 1) / 2 for side in (tf.shape(image)[0], tf.shape(image)[1]))
    shift_x = center_x - cos * center_x + sin * center_y
    shift_y = center_y - sin * center_x - cos * center_y
    return _affine(image, move.fill, [cos, -sin, shift_x, sin, cos, shift_y])


def _shear_x(image, strength, move):
    return _affine(image, move.fill, [1.0, move.sign * strength * 0.3, 0.0, 0.0, 1.0, 0.0])


def _shear_y(image, strength, move):
    return _affine(image, move.fill, [1.0, 0.0, 0.0, move.sign * strength * 0.3, 1.0, 0.0])


def _translate_x(image, strength, move):
    shift = move.sign * strength * 100 * tf.cast(tf.shape(image)[1], tf.float32) / REFERENCE_SIDE
    return _affine(image, move.fill, [1.0, 0.0, tf.round(shift), 0.0, 1.0, 0.0])


def _translate_y(image, strength, move):
    shift = move.sign * strength * 100 * tf.cast(tf.shape(image)[0], tf.float32) / REFERENCE_SIDE
    return _affine(image, move.fill, [1.0, 0.0, 0.0, 0.0, 1.0, tf.round(shift)])


def _cutout(image, strength, move):
    """A grey square of half side int(strength * 40) pixels of a 224 px image, its centre anywhere in the picture."""
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    half = tf.cast(int(strength * 40) * tf.minimum(height, width) / REFERENCE_SIDE, tf.int32)
    centre = tf.random.stateless_uniform((2,), move.seed)
    centre_y = tf.cast(centre[0] * tf.cast(height, tf.float32), tf.int32)
    centre_x = tf.cast(centre[1] * tf.cast(width, tf.float32), tf.int32)
    rows, columns = tf.range(height)[:, None, None], tf.range(width)[None, :, None]
    inside_rows = (rows >= centre_y - half) & (rows < centre_y + half)
    inside = inside_rows & (columns >= centre_x - half) & (columns < centre_x + half)
    return tf.where(inside, tf.constant(move.fill, tf.uint8), image)


OPERATIONS = {
    "AutoContrast": _auto_contrast,
    "Equalize": _equalize,
    "Invert": _invert,
    "Rotate": _rotate,
    "Posterize": _posterize,
    "Solarize": _solarize,
    "Color": _color,
    "Contrast": _contrast,
    "Brightness": _brightness,
    "Sharpness": _sharpness,
    "ShearX": _shear_x,
    "ShearY": _shear_y,
    "TranslateX": _translate_x,
    "TranslateY": _translate_y,
    "Cutout": _cutout,
    "SolarizeAdd": _solarize_add,
}


def _affine(image, fill, matrix):
    """Moves pixels, nearest neighbour; `matrix` maps output (x, y, 1) to input: [a, b, c, d, e, f]."""
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=tf.stack([*[tf.cast(entry, tf.float32) for entry in matrix], 0.0, 0.0])[None],
        output_shape=tf.shape(image)[:2],
        fill_value=float(fill),
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )[0]


def _grey(image):
    """Pillow's "L": ITU-R 601 luma in 16-bit fixed point, so that it equals Pillow to the last bit."""
    weighted = tf.reduce_sum(tf.cast(image, tf.int32) * [19595, 38470, 7471], axis=-1, keepdims=True)
    return tf.tile(tf.cast(tf.bitwise.right_shift(weighted + 0x8000, 16), tf.uint8), (1, 1, 3))


def _blend(degenerate, image, factor):
    """`factor` 0 gives `degenerate`, 1 the image, above 1 exaggerates."""
    degenerate = tf.cast(degenerate, tf.float32)
    return _to_uint8(degenerate + factor * (tf.cast(image, tf.float32) - degenerate))


def _to_uint8(pixels):
    return tf.cast(tf.clip_by_value(pixels, 0, 255), tf.uint8)

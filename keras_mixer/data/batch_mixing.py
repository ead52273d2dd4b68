"""Mixup and CutMix as functions of an explicit seed, so that a resumed run draws the same numbers on both backends.

Source: big_vision's `utils.get_mixup` for mixup; CutMix is not part of the Mixer paper.
"""

import tensorflow as tf


def mixup(images, labels, seed, alpha):
    """`(B, h, w, 3), (B, classes) -> the same`: blends each image with the previous one in the batch.

    One coefficient `max(a, 1 - a)` with `a ~ Beta(alpha, alpha)` is drawn for the whole batch.

    Args:
        images: uint8 or float pixels; the result is float32.
        labels: one-hot rows, float32; mixed rows also sum to 1.
        seed: `(2,)` int.
        alpha: the paper's mixup parameter p, greater than 0. It is not a probability: every batch is mixed.
    """
    fraction = _beta(seed, alpha)
    fraction = tf.maximum(fraction, 1 - fraction)
    return _blend(tf.cast(images, tf.float32), fraction), _blend(labels, fraction)


def cutmix(images, labels, seed, alpha):
    """`(B, h, w, 3), (B, classes) -> the same`: replaces one rectangle of each image by that of the previous image.

    The rectangle covers a fraction `a ~ Beta(alpha, alpha)` of the image. Its centre is uniform over the image and the
    part outside is cut off; labels are mixed by the remaining area. One rectangle is drawn for the whole batch.

    Args:
        images: uint8 or float pixels; the result is float32.
        labels: one-hot rows, float32; mixed rows also sum to 1.
        seed: `(2,)` int.
        alpha: greater than 0.

    Source: Yun et al. 2019 (arXiv 1905.04899), algorithm 1.
    """
    seeds = tf.random.split(seed, 2)  # (2, 2)
    sides = tf.cast(tf.shape(images)[1:3], tf.float32)
    centre = tf.random.stateless_uniform((2,), seeds[1]) * sides
    half = tf.sqrt(_beta(seeds[0], alpha)) * sides / 2
    first, last = (tf.cast(tf.clip_by_value(edge, 0.0, sides), tf.int32) for edge in (centre - half, centre + half))
    rows, columns = tf.range(tf.shape(images)[1])[:, None, None], tf.range(tf.shape(images)[2])[None, :, None]
    inside = (rows >= first[0]) & (rows < last[0]) & (columns >= first[1]) & (columns < last[1])  # (h, w, 1)
    images = tf.cast(images, tf.float32)
    fraction = 1 - tf.reduce_mean(tf.cast(inside, tf.float32))
    return tf.where(inside, tf.roll(images, 1, axis=0), images), _blend(labels, fraction)


def _beta(seed, alpha):
    """One draw from Beta(alpha, alpha)."""
    gammas = tf.random.stateless_gamma((2,), seed, alpha=alpha)
    return tf.math.divide_no_nan(gammas[0], tf.reduce_sum(gammas))  # both can underflow to zero for a small alpha


def _blend(values, fraction):
    """`(B, ...) -> (B, ...)`: each row blended with the previous one."""
    return fraction * values + (1 - fraction) * tf.roll(values, 1, axis=0)

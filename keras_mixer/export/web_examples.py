"""A few test images for visitors of the web page to click."""

import contextlib

import numpy as np
import tensorflow as tf

from keras_mixer.data.decode import image_of
from keras_mixer.export.parity import subsample

CANDIDATES = 50  # test images to choose from, evenly spaced
LONGEST_SIDE = 512  # pixels; larger photographs are reduced


def example_images(split, class_names, count) -> list[tuple[str, bytes]]:
    """`(class name, encoded image)` of up to `count` test images, each of another class.

    The images are encoded again, so they carry no camera data or place: PNG stays lossless, JPEG stays JPEG.

    Args:
        split: test images.
        class_names: one per class.
        count: largest number of images.
    """
    found: dict[int, bytes] = {}
    for example in subsample(split, CANDIDATES).elements.map(split.read):
        if count and int(example["label"]) not in found:
            with contextlib.suppress(Exception):  # damaged images are no examples
                found[int(example["label"])] = _encoded_again(example)
    labels = sorted(found)
    chosen = np.unique(np.linspace(0, len(labels) - 1, min(count, len(labels))).round().astype(int)) if labels else ()
    return [(class_names[labels[i]], found[labels[i]]) for i in chosen]


def _encoded_again(example):
    image, encoded = image_of(example), example["image"]
    large = max(image.shape[:2]) > LONGEST_SIDE
    if large:
        size = [round(side * LONGEST_SIDE / max(image.shape[:2])) or 1 for side in image.shape[:2]]
        image = tf.cast(tf.round(tf.image.resize(image, size, "area")), tf.uint8)
    if large or (encoded.dtype == tf.string and tf.io.is_jpeg(encoded)):
        return tf.io.encode_jpeg(image, quality=90).numpy()
    return tf.io.encode_png(image).numpy()

"""A few test images for visitors of the web page to click."""

import contextlib

import numpy as np
import tensorflow as tf

from keras_mixer.data.decode import UPRIGHT, decode_image
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
    for element in subsample(split, CANDIDATES).elements.map(split.read).as_numpy_iterator():
        if count and element["label"] not in found:
            with contextlib.suppress(Exception):  # damaged images are no examples
                orientation = int(element.get("orientation", UPRIGHT))
                found[int(element["label"])] = _encoded_again(element["image"], orientation)
    labels = sorted(found)
    chosen = np.unique(np.linspace(0, len(labels) - 1, min(count, len(labels))).round().astype(int)) if labels else ()
    return [(class_names[labels[i]], found[labels[i]]) for i in chosen]


def _encoded_again(encoded, orientation):
    image = decode_image(encoded, orientation)
    large = max(image.shape[:2]) > LONGEST_SIDE
    if large:
        size = [round(side * LONGEST_SIDE / max(image.shape[:2])) or 1 for side in image.shape[:2]]
        image = tf.cast(tf.round(tf.image.resize(image, size, "area")), tf.uint8)
    if large or tf.io.is_jpeg(encoded):
        return tf.io.encode_jpeg(image, quality=90).numpy()
    return tf.io.encode_png(image).numpy()

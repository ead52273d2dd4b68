"""A cache of decoded images in memory, so that later epochs do not decode them again."""

import tensorflow as tf

from keras_mixer.data.preprocessing import decode_image


class DecodedImages:
    """Decoded images by number, stored on first use up to a limit; for use inside `tf.data`.

    Uses a TensorFlow hash table, because `Dataset.cache` has no limit and delays the first batch until it is full.

    Args:
        limit: bytes of pixels; images that no longer fit are decoded on each use.

    Source: ours.
    """

    def __init__(self, limit):
        self.limit = limit
        self.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.string, b"")
        self.used = tf.Variable(0, trainable=False, dtype=tf.int64)

    def get(self, number, read):
        """`() int64 -> (H, W, 3) uint8`: the image with that number; `read()` returns its encoded bytes if it is new.

        An image that does not fit is also decoded completely, so that pixels do not depend on what is in the cache.
        """
        cached = self.table.lookup(number)

        def from_memory():
            return tf.io.parse_tensor(cached, tf.uint8)

        def decoded():
            image = decode_image(read())
            size = tf.size(image, out_type=tf.int64)
            fits = self.used.assign_add(size) <= self.limit
            with tf.control_dependencies([tf.cond(fits, lambda: store(image), lambda: discard(size))]):
                return tf.identity(image)

        def store(image):
            with tf.control_dependencies([self.table.insert(number, tf.io.serialize_tensor(image))]):
                return tf.constant(True)

        def discard(size):
            with tf.control_dependencies([self.used.assign_sub(size)]):
                return tf.constant(False)

        return tf.ensure_shape(tf.cond(tf.strings.length(cached) > 0, from_memory, decoded), (None, None, 3))

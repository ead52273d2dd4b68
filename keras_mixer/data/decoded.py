"""Decoded images that stay in memory, so that an epoch after the first need not decode them again."""

import tensorflow as tf

from keras_mixer.data.preprocessing import decode_image


class DecodedImages:
    """Decoded images by number, filled as they are first asked for, up to a limit; for use inside `tf.data`.

    A table of TensorFlow's own, because `Dataset.cache` has no limit and holds up the first batch until it is full.

    Args:
        limit: bytes of pixels; images that no longer fit are decoded at each use.

    Source: ours.
    """

    def __init__(self, limit):
        self.limit = limit
        self.table = tf.lookup.experimental.MutableHashTable(tf.int64, tf.string, b"")
        self.used = tf.Variable(0, trainable=False, dtype=tf.int64)

    def get(self, number, read):
        """`() int64 -> (H, W, 3) uint8`: the image of that number; `read()` gives its encoded bytes where it is new.

        Decoded whole each time where it does not fit, never in part: so the pixels do not depend on what was kept.
        """
        kept = self.table.lookup(number)

        def from_memory():
            return tf.io.parse_tensor(kept, tf.uint8)

        def decoded():
            image = decode_image(read())
            size = tf.size(image, out_type=tf.int64)
            room = self.used.assign_add(size) <= self.limit
            with tf.control_dependencies([tf.cond(room, lambda: keep(image), lambda: leave(size))]):
                return tf.identity(image)

        def keep(image):
            with tf.control_dependencies([self.table.insert(number, tf.io.serialize_tensor(image))]):
                return tf.constant(True)

        def leave(size):
            with tf.control_dependencies([self.used.assign_sub(size)]):
                return tf.constant(False)

        return tf.ensure_shape(tf.cond(tf.strings.length(kept) > 0, from_memory, decoded), (None, None, 3))

"""How many threads prepare images, and how far ahead: fixed numbers in place of tf.data's tuning."""

import tensorflow as tf

from keras_mixer.cores import available_cores

PARALLEL_CALLS = available_cores()  # images prepared at once
BATCHES_AHEAD = 2  # whole batches being prepared or waiting


def prefetch(dataset, elements=BATCHES_AHEAD) -> tf.data.Dataset:
    """The same elements, some of them prepared ahead, without tf.data's tuning of threads and buffers.

    The tuning runs in a thread that sleeps for longer and longer times and is not woken at the end: whoever closes an
    iterator, and Keras does after every validation, waits for it, 17 s after 20 epochs of digits. Fixed numbers are as
    fast.

    Args:
        dataset: ends with the elements that the model or the caller takes.
        elements: how many are prepared ahead.

    Source: ours, seen with TensorFlow 2.21.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(elements).with_options(options)

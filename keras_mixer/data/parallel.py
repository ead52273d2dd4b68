"""How the functions of an input pipeline run: as written, with fixed numbers of threads and batches ahead."""

import tensorflow as tf

from keras_mixer.cores import available_cores

PARALLEL_CALLS = available_cores()  # images prepared at the same time
BATCHES_AHEAD = 2  # batches in preparation or waiting

# Decorates a function for `Dataset.map`: TensorFlow rewrites its Python `if` and `for`, and those of all that it calls.
# Ours need none of that (they use tf.cond), and it takes 1.3 s at the start of a training.
as_written = tf.autograph.experimental.do_not_convert


def prefetch(dataset, elements=BATCHES_AHEAD) -> tf.data.Dataset:
    """`dataset.prefetch` without tf.data's autotuning of threads and buffers.

    The autotuning thread sleeps for longer and longer periods and is not woken at the end. Closing an iterator, as
    Keras does after every validation, waits for it: 17 s after 20 epochs of digits. Fixed numbers are as fast.

    Args:
        dataset: the last step of an input pipeline.
        elements: number of elements to prefetch.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(elements).with_options(options)

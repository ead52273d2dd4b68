"""Predictions by XLA or by TensorFlow's own operations, whichever is faster on this CPU.

Source: ours; measured in docs/performance.md.
"""

import keras
import numpy as np

from keras_mixer.anatomy import is_mixer

AVX2, AVX_512 = {"AVX2", "X86_V3"}, {"AVX512F", "X86_V4"}  # as NumPy before 2.4 and since names them
SMALL = 25_000_000  # parameters: S/32, S/16, and everything below
FIRST_BATCHES = 8  # without XLA: a small data set is done before a compilation would be


def xla_predicts_faster(model) -> bool:
    """Whether XLA predicts faster than TensorFlow's own operations, for a built model on this machine.

    It does for small Mixers in float32 and, with AVX2 but without AVX-512, where TensorFlow does not use oneDNN, for
    all Mixers. oneDNN is far ahead in bfloat16. Convolutions and attention are not for XLA on a CPU.
    """
    on_tensorflow = keras.backend.backend() == "tensorflow"
    if not on_tensorflow or getattr(model, "compute_dtype", None) != "float32" or not is_mixer(model):
        return False
    import tensorflow as tf

    found = set(np.show_config(mode="dicts")["SIMD Extensions"]["found"])
    if any(device.device_type != "CPU" for device in tf.config.list_logical_devices()) or not found & AVX2:
        return False
    return model.count_params() < SMALL or not found & AVX_512


def prediction_function(model):
    """The model in inference mode as a function of a batch of images; the model itself stays as it is.

    XLA, where it is faster, starts after the first batches and computes those of the same size. Replicas of
    `tf.distribute` use Keras's function.
    """
    if not xla_predicts_faster(model) or model.distribute_strategy.num_replicas_in_sync > 1:
        return model.predict_on_batch
    import tensorflow as tf

    compiled = tf.function(lambda images: model(images, training=False), jit_compile=True)
    sizes: list[int] = []

    def predict(images):
        sizes.append(len(images))
        by_xla = len(sizes) > FIRST_BATCHES and len(images) == sizes[0]
        return compiled(images) if by_xla else model.predict_on_batch(images)

    return predict

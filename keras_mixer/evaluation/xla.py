"""Predictions by XLA or by TensorFlow's own operations, whichever is faster on this CPU.

Source: ours; measured in docs/performance.md.
"""

import keras
import numpy as np

AVX2, AVX_512 = {"AVX2", "X86_V3"}, {"AVX512F", "X86_V4"}  # as NumPy before 2.4 and since names them


def xla_predicts_faster(model) -> bool:
    """Whether XLA predicts faster than TensorFlow's own operations, for a built model on this machine.

    It does with AVX2 and without AVX-512, where TensorFlow does not use oneDNN. With AVX-512 the two are close in
    float32, and oneDNN is far ahead in bfloat16.
    """
    if keras.backend.backend() != "tensorflow" or getattr(model, "compute_dtype", None) != "float32":
        return False
    import tensorflow as tf

    found = set(np.show_config(mode="dicts")["SIMD Extensions"]["found"])
    only_cpu = all(device.device_type == "CPU" for device in tf.config.list_logical_devices())
    return only_cpu and bool(found & AVX2) and not found & AVX_512


def prediction_function(model):
    """The model in inference mode as a function of a batch of images; the model itself stays as it is.

    XLA compiles it for each size of a batch. Replicas of `tf.distribute` use Keras's function.
    """
    if not xla_predicts_faster(model) or model.distribute_strategy.num_replicas_in_sync > 1:
        return model.predict_on_batch
    import tensorflow as tf

    return tf.function(lambda images: model(images, training=False), jit_compile=True)

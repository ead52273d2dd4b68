"""GELU in its two forms, and how an activation is computed while training.

Source: section 2 of arXiv 2105.01601; `jax.nn.gelu`, timm.
"""

import functools

import keras


def tanh_gelu(x):
    """`(...) -> (...)`: GELU in its tanh form, `jax.nn.gelu`'s default; the erf form differs by up to 5e-4."""
    return keras.activations.gelu(x, approximate=True)


def erf_gelu(x):
    """`(...) -> (...)`: GELU in its exact form, which timm's models are trained with."""
    return keras.activations.gelu(x, approximate=False)


@functools.cache
def for_training(activation):
    """An elementwise function of which each direction is one pass over memory, for training on TensorFlow's CPUs.

    There every operation is a pass of its own, ten forward and as many backward for a GELU, and most results are kept
    for the gradient. Compiled by XLA it is one pass each way, and only `x` is kept: B/16 trains 8 % (float32) to 10 %
    (bfloat16) faster. Inference keeps the plain form, which oneDNN fuses with the product before it and which TFLite
    knows; JAX compiles everything anyway; on GPUs XLA needs libraries that not every installation has.

    Args:
        activation: maps a tensor to one of the same shape, element by element.

    Returns:
        The same function, its result and gradient computed in float32 or better.
    """
    if keras.backend.backend() != "tensorflow":
        return activation
    import tensorflow as tf  # the one place of the model code that knows a backend

    if any(device.device_type != "CPU" for device in tf.config.list_logical_devices()):
        return activation

    @tf.function(jit_compile=True)
    def forward(x):
        return tf.cast(activation(tf.cast(x, keras.backend.result_type(x.dtype, "float32"))), x.dtype)

    @tf.function(jit_compile=True)
    def backward(x, gradient):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = forward(x)
        return tape.gradient(y, x, output_gradients=gradient)

    @tf.custom_gradient
    def compiled(x):
        return forward(x), lambda gradient: backward(x, gradient)

    return compiled

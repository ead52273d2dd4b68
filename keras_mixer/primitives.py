"""The layers' base class, and LayerNorm and GELU with few operations: on TensorFlow's CPUs, each passes over memory."""

import functools
import inspect
import math

import keras
from keras import ops

_tanh_gelu = functools.partial(keras.activations.gelu, approximate=True)


class FixedLayer(keras.layers.Layer):
    """A layer whose constructor arguments are attributes that cannot change: the layer is built from them only once.

    `inside` has, by name of a layer in it, the arguments that differ from its own (it was frozen or quantized), which
    configs of Keras forget.
    """

    arguments: tuple[str, ...] = ()  # names of those of the constructor

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        parameters = inspect.signature(cls.__init__).parameters.values()
        cls.arguments = tuple(p.name for p in parameters if p.name != "self" and p.kind != p.VAR_KEYWORD)

    def __init__(self, inside=None, **kwargs):
        super().__init__(**kwargs)
        self._inside = inside or {}

    def __setattr__(self, name, value):
        if name in self.arguments and hasattr(self, name):
            fixed = f"{name}={getattr(self, name)!r} of layer {self.name!r} cannot be changed."
            raise AttributeError(f"{fixed} Make a new {type(self).__name__} with {name}={value!r}.")
        super().__setattr__(name, value)

    def add_layer(self, kind, *arguments, **options):
        """A layer inside this one, of its precision, and frozen if it is."""
        inherited = {"dtype": self.dtype_policy, "trainable": self.trainable}
        return kind(*arguments, **inherited | options | self._inside.get(options["name"], {}))

    def get_config(self):
        config = super().get_config() | {name: getattr(self, name) for name in self.arguments}
        expected, inside = {"trainable": self.trainable, "dtype": config["dtype"], "inside": {}}, {}
        for layer in self._layers:
            own = {"inside": {}} | layer.get_config()
            if changed := {name: own[name] for name, value in expected.items() if own[name] != value}:
                inside[layer.name] = changed
        return config | {"inside": inside}

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable("keras_mixer")
class LayerNorm(keras.layers.LayerNormalization):
    """Keras's LayerNormalization over the last axis, in float32 or better; scale and offset are not expanded first."""

    def call(self, x):
        dtype = keras.backend.result_type(x.dtype, "float32")
        y = ops.cast(x, dtype)
        y = y - ops.mean(y, axis=-1, keepdims=True)
        y = y * ops.rsqrt(ops.mean(ops.square(y), axis=-1, keepdims=True) + self.epsilon)
        return ops.cast(y * ops.cast(self.gamma, dtype) + ops.cast(self.beta, dtype), self.compute_dtype)


def gelu(x, exact=False, training=False):
    """GELU of any tensor: the tanh form, the default of `jax.nn.gelu`, or `exact`, the erf form of timm's models."""
    form = _erf_gelu if exact else _tanh_gelu  # at inference, oneDNN fuses the plain form with the product before it
    with keras.name_scope("gelu"):  # sorts after "dense_0": TensorFlow sorts inputs by name before it decides on fusion
        return (_one_pass(form) if training else form)(x)


def _erf_gelu(x):  # Keras writes TensorFlow's Erfc, which ONNX does not have
    return 0.5 * x * (1 + ops.erf(x / math.sqrt(2)))


@functools.cache
def _one_pass(activation):
    """An elementwise function as one pass over memory in each direction, for training on TensorFlow's CPUs."""
    if keras.backend.backend() != "tensorflow":  # JAX compiles everything anyway
        return activation
    import tensorflow as tf  # the only place in the model code that names a backend

    if any(device.device_type != "CPU" for device in tf.config.list_logical_devices()):  # XLA needs further libraries
        return activation

    @tf.function(jit_compile=True, autograph=False)
    def forward(x):
        return tf.cast(activation(tf.cast(x, keras.backend.result_type(x.dtype, "float32"))), x.dtype)

    @tf.function(jit_compile=True, autograph=False)
    def backward(x, gradient):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = forward(x)
        return tape.gradient(y, x, output_gradients=gradient)

    @tf.custom_gradient
    def compiled(x):
        return forward(x), lambda gradient: backward(x, gradient)

    return compiled

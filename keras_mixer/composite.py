"""The base class of the layers: arguments that stay, and a config that keeps what was changed inside."""

import inspect

import keras


class FixedLayer(keras.layers.Layer):
    """A layer whose constructor arguments are attributes that cannot change: the layer is built from them only once.

    Layers inside it are made by `add_layer`. Keras's config forgets that one of them was frozen or quantized. `inside`
    keeps it: arguments by layer name.
    """

    arguments: tuple[str, ...] = ()  # their names, for `get_config`

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        parameters = inspect.signature(cls.__init__).parameters.values()
        cls.arguments = tuple(p.name for p in parameters if p.name != "self" and p.kind != p.VAR_KEYWORD)

    def __init__(self, inside=None, **kwargs):
        super().__init__(**kwargs)
        self._inside = inside or {}

    def __setattr__(self, name, value):
        if name in self.arguments and hasattr(self, name):
            raise AttributeError(
                f"{name}={getattr(self, name)!r} of layer {self.name!r} cannot be changed. Make a new "
                f"{type(self).__name__} with {name}={value!r}."
            )
        super().__setattr__(name, value)

    def add_layer(self, kind, *arguments, **options):
        """A layer inside this one, of its precision, and frozen if it is."""
        inherited = {"dtype": self.dtype_policy, "trainable": self.trainable}
        return kind(*arguments, **inherited | options | self._inside.get(options["name"], {}))

    def get_config(self):
        config, inside = super().get_config() | {name: getattr(self, name) for name in self.arguments}, {}
        for layer in self._layers:
            own = layer.get_config()
            changed = {"trainable": layer.trainable != self.trainable, "dtype": layer.dtype_policy != self.dtype_policy}
            changed["inside"] = "inside" in own
            if any(changed.values()):
                inside[layer.name] = {name: own[name] for name in changed if changed[name]}
        return config | ({"inside": inside} if inside else {})

    def compute_output_shape(self, input_shape):
        return input_shape

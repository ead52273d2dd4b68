"""Base classes of the layers: arguments that stay, and a config that keeps what was changed inside."""

import functools
import inspect
import operator

import keras


class FixedLayer(keras.layers.Layer):
    """A layer whose constructor arguments are attributes that cannot be set.

    A later change would do nothing to a layer that is built, and appear in it once it is saved and loaded. `__init__`
    keeps argument `x` as `self._x`.
    """

    arguments: tuple[str, ...] = ()  # their names, for `get_config`

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        parameters = inspect.signature(cls.__init__).parameters.values()
        names = (p.name for p in parameters if p.name not in ("self", "inside") and p.kind != p.VAR_KEYWORD)
        cls.arguments = tuple(names)
        for name in cls.arguments:
            setattr(cls, name, property(operator.attrgetter(f"_{name}"), functools.partial(_refuse, name=name)))

    def get_config(self):
        return super().get_config() | {name: getattr(self, name) for name in self.arguments}


def _refuse(layer, value, name):
    raise AttributeError(
        f"{name}={getattr(layer, name)!r} of layer {layer.name!r} cannot be changed. Make a new {type(layer).__name__} "
        f"with {name}={value!r}."
    )


class CompositeLayer(FixedLayer):
    """A layer of layers, made by `add_layer`, that keeps the shape of its input.

    Keras's config of such a layer forgets that a layer inside was frozen or quantized. Here `inside` keeps it: by layer
    name, the constructor arguments that replace those of `add_layer`.
    """

    def __init__(self, inside=None, **kwargs):
        super().__init__(**kwargs)
        self._inside = inside or {}

    def add_layer(self, kind, *arguments, **options):
        """A layer inside this one, of its precision, and frozen if it is."""
        inherited = {"dtype": self.dtype_policy, "trainable": self.trainable}
        return kind(*arguments, **inherited | options | self._inside.get(options["name"], {}))

    def get_config(self):
        inside = {layer.name: changes for layer in self._layers if (changes := self._changes_of(layer))}
        return super().get_config() | ({"inside": inside} if inside else {})

    def compute_output_shape(self, input_shape):
        return input_shape

    def _changes_of(self, layer):
        config = layer.get_config()
        changes = {"inside": config["inside"]} if "inside" in config else {}
        if layer.trainable != self.trainable:
            changes["trainable"] = layer.trainable
        if layer.dtype_policy != self.dtype_policy:
            changes["dtype"] = config["dtype"]
        return changes

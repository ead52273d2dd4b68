"""Base classes of the layers: arguments that stay, and a config that keeps what was changed inside."""

import keras


class FixedLayer(keras.layers.Layer):
    """A layer whose constructor arguments are attributes, and stay as they are.

    A later change would do nothing to a layer that is built, and appear in it once it is saved and loaded.

    Attributes:
        arguments: names of the constructor's arguments, for `get_config`.
    """

    arguments: tuple[str, ...] = ()

    def __setattr__(self, name, value):
        if name in self.arguments and hasattr(self, name):
            raise AttributeError(
                f"{name}={getattr(self, name)!r} of layer {self.name!r} cannot be changed. Make a new "
                f"{type(self).__name__} with {name}={value!r}."
            )
        super().__setattr__(name, value)

    def get_config(self):
        return super().get_config() | {name: getattr(self, name) for name in self.arguments}


class CompositeLayer(FixedLayer):
    """A layer of layers, made by `add_layer`.

    Keras's config of such a layer forgets that a layer inside was frozen or quantized; here its `inside` keeps it.

    Args:
        inside: constructor arguments by layer name, which replace those of `add_layer`; from `get_config`.
        **kwargs: those of `keras.layers.Layer`.
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

    def _changes_of(self, layer):
        config = layer.get_config()
        changes = {"inside": config["inside"]} if "inside" in config else {}
        if layer.trainable != self.trainable:
            changes["trainable"] = layer.trainable
        if layer.dtype_policy != self.dtype_policy:
            changes["dtype"] = config["dtype"]
        return changes

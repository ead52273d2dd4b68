"""The Keras model class of every Mixer, which also stores what is needed to use it."""

import math

import keras

from keras_mixer.compiled import retrace_models_with
from keras_mixer.layers import MixerBlock

CARRIED = ("class_names", "evaluation_crop", "pixel_range", "trained_on")


@keras.saving.register_keras_serializable("keras_mixer")
class MixerModel(keras.Model):
    """A functional `keras.Model` that stores what is needed to use it; `.keras` files keep these attributes.

    Attributes:
        class_names: one name per output, in order; None if unknown.
        evaluation_crop: how an image of any size is brought to the input size, one of
            `keras_mixer.data.settings.EVALUATION_CROPS`; None if unknown.
        trained_on: the data that its classes come from, in a few words for the user; None if unknown.
    """

    class_names: tuple[str, ...] | None = None
    evaluation_crop: str | None = None
    trained_on: str | None = None
    _stem_range: tuple[float, float] = (-1.0, 1.0)

    @property
    def pixel_range(self):
        """Values of a black and a white pixel at the stem; `(-1.0, 1.0)` by default, as in the official code.

        With `include_preprocessing=True` the model maps [0, 255] to this range; otherwise the caller does. Set it for
        weights trained with another range: `(0.0, 1.0)` for timm's `miil` weights.

        Raises:
            ValueError: when set to anything other than two finite numbers in ascending order.
        """
        return self._stem_range

    @pixel_range.setter
    def pixel_range(self, values):
        black, white = map(float, values)
        if not -math.inf < black < white < math.inf:
            raise ValueError(f"pixel_range must be two finite numbers in ascending order, got {values!r}.")
        if (black, white) == self._stem_range:
            return
        self._stem_range = (black, white)
        for layer in self.layers:
            if layer.name == "preprocessing":
                layer.scale, layer.offset = (white - black) / 255, black
                retrace_models_with(self)

    def get_config(self):
        carried = {name: getattr(self, name) for name in CARRIED}
        carried["class_names"] = None if self.class_names is None else list(self.class_names)
        return {**super().get_config(), **carried}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        graph = {key: value for key, value in config.items() if key not in CARRIED}
        model = super().from_config(graph, custom_objects)
        names = config.get("class_names")
        model.class_names = None if names is None else tuple(names)
        model.evaluation_crop, model.trained_on = config.get("evaluation_crop"), config.get("trained_on")
        model.pixel_range = config.get("pixel_range") or model.pixel_range  # older files do not have it
        return model


def grid_of(model) -> tuple[int, int]:
    """Rows and columns of a model's token grid, `(g_h, g_w)`."""
    rows, columns = model.get_layer("stem").output.shape[1:3]
    return rows, columns


def blocks_of(model) -> list[MixerBlock]:
    """The Mixer blocks of a model, in order."""
    return [layer for layer in model.layers if isinstance(layer, MixerBlock)]

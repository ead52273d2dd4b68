"""The Keras model class of every Mixer, and what a model knows about itself."""

import dataclasses
import numbers
import operator
import statistics
from collections.abc import Iterable, Mapping, Set

import keras


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """What must be known of a model, or of a file of weights, to use it; None if it is unknown."""

    class_names: tuple[str, ...] | None = None  # one per class, in order
    trained_on: str | None = None  # the data that the classes come from, in a few words for the user
    evaluation_crop: str | None = None  # how images are resized, one of `training.recipe.EVALUATION_CROPS`
    pixel_range: tuple[float, float] | None = None  # black and white at the stem; of a `Predictor`, at the input
    exact_gelu: bool | None = None  # whether the model computes the erf form of GELU


def checked_class_names(names) -> tuple[str, ...]:
    """One name per class, each a line of text; ValueError for other types, empty names, and repeats in a short list."""
    if isinstance(names, str | bytes | Mapping | Set) or not isinstance(names, Iterable):
        raise ValueError(f"class_names must be a list of names in label order, got {names!r:.100}.")
    names = tuple(names)
    for label, name in enumerate(names):
        if not isinstance(name, str | numbers.Integral) or not str(name).strip():
            raise ValueError(f"class_names must be text, got {name!r:.100} for class {label}.")
    checked = tuple(" ".join(str(name).split()) for name in names)
    if len(set(checked)) < len(checked) < 1000:  # ImageNet-1k has two "crane", ImageNet-21k has many of a name
        raise ValueError(f"class_names must differ, got {statistics.mode(checked)!r} more than once.")
    return checked


@keras.saving.register_keras_serializable("keras_mixer")
class ClassifierHead(keras.layers.Dense):
    """Logits, `(B, C) -> (B, classes)`; keeps what `ModelFacts` says about classes and images, in every copy."""

    facts = ("class_names", "trained_on", "evaluation_crop")

    def __init__(self, units, class_names=None, trained_on=None, evaluation_crop=None, **kwargs):
        super().__init__(units, **kwargs)
        self.class_names, self.trained_on, self.evaluation_crop = class_names, trained_on, evaluation_crop

    def _set_names(self, names):
        if names is not None:
            names = checked_class_names(names)
            if len(names) != self.units:
                raise ValueError(f"{len(names)} class names were given for {self.units} classes.")
        self._names = names

    class_names = property(operator.attrgetter("_names"), _set_names, doc="One name per class; None if unknown.")

    def get_config(self):
        return super().get_config() | {name: getattr(self, name) for name in self.facts}


def _of_head(name, description):
    """A property of a model that is stored on its head, so that copies of the head keep it."""
    return property(
        fget=lambda model: getattr(model._head, name, None),
        fset=lambda model, value: setattr(model._head or model.get_layer("ClassifierHead"), name, value),
        doc=description,
    )


@keras.saving.register_keras_serializable("keras_mixer")
class MixerModel(keras.Model):
    """A functional `keras.Model` that knows its classes and its images, and still does in copies and `.keras` files.

    Derive from it for a `train_step` of your own: `MyModel(mixer.inputs, mixer.outputs)` shares the layers of a Mixer,
    and is one for all functions of this package. `keras.saving.register_keras_serializable` lets Keras load its files.

    Args:
        args: image and output, tensors of one graph.
        **kwargs: `name` and the other arguments of `keras.Model`.
    """

    class_names = _of_head("class_names", "One name per class, in order; None if unknown.")
    trained_on = _of_head("trained_on", "The data that its classes come from, in a few words; None if unknown.")
    evaluation_crop = _of_head("evaluation_crop", "How an image of any size is cropped and resized; None if unknown.")

    @property
    def pixel_range(self):
        """Values of a black and a white pixel at the stem, fixed when the model is built; None without a stem."""
        return next((layer.pixel_range for layer in self.layers if hasattr(layer, "pixel_range")), None)

    @property
    def _head(self):
        return next((layer for layer in self.layers[::-1] if isinstance(layer, ClassifierHead)), None)

    def save(self, filepath, *args, **kwargs):
        """Saves the model as `keras.Model.save` does; ValueError for `.h5` and `.hdf5`, which could not be loaded."""
        if str(filepath).endswith((".h5", ".hdf5")):
            raise ValueError(f"Keras cannot load a Mixer from legacy HDF5. End the path in .keras, got {filepath}.")
        return super().save(filepath, *args, **kwargs)

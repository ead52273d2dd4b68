"""What a Keras classifier takes and gives: the range of its pixels, and its outputs as probabilities."""

import keras
import numpy as np

from keras_mixer.anatomy import anatomy
from keras_mixer.description import implied_activation, probabilities_of

TOLERANCE = 1e-3  # how far rounding may take a probability out of [0, 1]
MEANINGS = (keras.activations.softmax, keras.activations.sigmoid, keras.activations.linear, None)


class Classifier:
    """The outputs of a Keras model as class probabilities.

    Outputs are logits if the last layer has a linear activation. Otherwise they must be probabilities. One output that
    is not a softmax is the probability of class 1 of two.
    """

    def __init__(self, model):
        self.model = model
        self.last = _last_operation(model)
        self.activation = getattr(self.last, "activation", None)

    def probabilities(self, outputs) -> np.ndarray:
        """`(B, outputs) -> (B, classes) float64`.

        Raises:
            ValueError: the outputs are neither probabilities nor logits.
        """
        if not isinstance(outputs, np.ndarray) or outputs.ndim != 2:
            raise self._unknown(f"of shape {keras.tree.map_structure(np.shape, outputs)}")
        if self.activation not in MEANINGS:
            raise self._unknown(f"of {getattr(self.activation, '__name__', self.activation)}")
        found, binary = np.asarray(outputs, np.float64), outputs.shape[1] == 1
        if self.activation is keras.activations.linear:
            found = probabilities_of(found, "sigmoid" if binary else implied_activation(self.model))
        finite = found[np.isfinite(found)]
        if finite.size and not -TOLERANCE <= finite.min() <= finite.max() <= 1 + TOLERANCE:
            raise self._unknown(
                f"from {finite.min():.3g} to {finite.max():.3g} after {getattr(self.last, 'name', self.last)}"
            )
        if binary and self.activation is not keras.activations.softmax:
            return np.concatenate([1 - found, found], axis=1)
        return found

    def _unknown(self, what):
        return ValueError(
            f"Expected a model of class probabilities or logits (B, classes), got outputs {what}. End it in softmax, "
            "sigmoid or a Dense layer without activation. few_shot evaluates the features of a model without a head."
        )


def _last_operation(model):
    """The operation that gives the output of a model; the model itself if its graph is not known."""
    if isinstance(model, keras.Sequential):
        last = model.layers[-1]
    else:  # by the output: a layer that is used twice is not the last of `operations`
        last = model.outputs[0]._keras_history.operation if getattr(model, "outputs", None) else model
    return _last_operation(last) if isinstance(last, keras.Model) and last is not model else last


def pixel_range_of(model) -> tuple[float, float] | None:
    """Values of a black and a white pixel at the input of a Mixer; None if they or the kind of model are unknown."""
    try:
        return anatomy(model).pixel_range
    except ValueError:
        return None

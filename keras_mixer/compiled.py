"""Compiled functions of Keras models: they keep what a layer computed when they were traced.

Source: ours.
"""

import gc

import keras


def retrace_models_with(layer):
    """Makes the compiled functions of every model that holds `layer` again; for when the layer computes something else.

    `predict`, `evaluate` and `fit` then trace the layer anew, also those of models around it and of models that share
    its weights. Functions that the user compiled (`tf.function`, `jax.jit`) cannot be found.

    Args:
        layer: a built layer or model with weights.
    """
    own = {id(weight) for weight in layer.weights}
    for model in [thing for thing in gc.get_objects() if issubclass(type(thing), keras.Model)]:
        for kind in ("train", "test", "predict"):
            if getattr(model, f"{kind}_function", None) is not None and own & {id(weight) for weight in model.weights}:
                getattr(model, f"make_{kind}_function")(force=True)

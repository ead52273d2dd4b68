"""Compiled functions of Keras models: they keep computing what a layer computed when they were traced.

Source: ours.
"""

import gc

import keras


def retrace_models_with(layer):
    """Recreates the compiled functions of every model that contains `layer`, after a change in what the layer computes.

    `predict`, `evaluate` and `fit` then trace the layer again, including those of models around it and of models that
    share its weights. Functions compiled by the user (`tf.function`, `jax.jit`) cannot be found.

    Args:
        layer: a built layer or model with weights.
    """
    own = {id(weight) for weight in layer.weights}
    for model in [thing for thing in gc.get_objects() if issubclass(type(thing), keras.Model)]:
        for kind in ("train", "test", "predict"):
            if getattr(model, f"{kind}_function", None) is not None and own & {id(weight) for weight in model.weights}:
                getattr(model, f"make_{kind}_function")(force=True)

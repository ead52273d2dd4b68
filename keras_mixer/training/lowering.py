"""The step that Keras would jit, lowered for devices that need not be present: shapes instead of arrays. JAX only."""

import dataclasses

import keras

from keras_mixer.data.batches import training_batches
from keras_mixer.data.splits import Source, Split
from keras_mixer.features import feature_extractor
from keras_mixer.training.devices import Devices, check_recipe
from keras_mixer.training.inputs import validation_batches
from keras_mixer.training.plan import plan
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.trainee import build_trainee, start_model
from keras_mixer.weights import published
from keras_mixer.weights.loading import open_weights
from keras_mixer.weights.resolution import widened_dim

STEPS = ("train", "evaluate", "features")
SOME_STEPS = 1_000_000  # length of the schedule where the data do not say; a number in the program, no more


def lower_step(recipe: Recipe, classes, devices, step="train"):
    """Lowers the function that Keras compiles for `fit`, for its validation, or for feature extraction.

    The model is the one that `fit` builds and the function the one that Keras's `make_train_function` jits, with its
    donated state and its shardings. Only the arrays are missing.

    Args:
        recipe: what to train; weights that it names are loaded, see `without_weights`.
        classes: outputs of the head.
        devices: JAX devices that share a batch, such as those of `topology_devices`.
        step: "train", "evaluate", or "features" (`pre_logits` of a batch).

    Returns:
        A `jax.stages.Lowered`.

    Raises:
        ValueError: the batch cannot be shared by the devices.
    """
    import jax

    on = Devices(f"{len(devices)} devices", len(devices), devices[0].platform)
    check_recipe(recipe, on)
    source = _source_of_shapes(recipe, classes)
    total_steps = max(plan(recipe).total_steps or SOME_STEPS, recipe.warmup_steps + 1)
    model = build_trainee(start_model(recipe, source, log=None), recipe, total_steps, on)
    batches = (
        training_batches(source.train, recipe, 0, on) if step == "train" else validation_batches(source, recipe, on)
    )
    spec = batches.element_spec
    if step == "features":
        model, spec = feature_extractor(model, ["pre_logits"]), spec[:1]
    else:
        model._symbolic_build(data_batch=spec)  # metrics, as `fit` does with its first batch
    if len(devices) > 1:
        on = dataclasses.replace(on, distribution=keras.distribution.DataParallel(devices=devices))

    def abstract(tensor, layout_of):
        """Shape, number format and place of a tensor."""
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if on.distribution is None:
            place = jax.sharding.SingleDeviceSharding(devices[0])
        else:
            place = layout_of(tensor).backend_layout
        return jax.ShapeDtypeStruct(tuple(tensor.shape), dtype, sharding=place)

    optimizer = getattr(model, "optimizer", None)  # an extractor has none
    with on.scope():
        for variable in (*model.variables, *model.metrics_variables, *(optimizer.variables if optimizer else ())):
            variable._value = abstract(variable, lambda v: on.distribution.get_variable_layout(v))
        data = tuple(abstract(part, lambda p: on.distribution.get_data_layout(p.shape)) for part in spec)
        return _jitted(model, step).lower(_state(model, step), data)


def _jitted(model, step):
    """What Keras wraps into its loop over an iterator: the jitted function of one step."""
    jitted = []

    def take(function, concatenate_outputs=False):
        jitted.append(function)
        return function

    model._make_function = take
    make = {"train": model.make_train_function, "evaluate": model.make_test_function}
    make.get(step, model.make_predict_function)(force=True)
    return jitted[-1]


def _state(model, step):
    return model._get_jax_state(
        trainable_variables=True,
        non_trainable_variables=True,
        optimizer_variables=step == "train",
        metrics_variables=step != "features",
    )


def without_weights(recipe):
    """The recipe for random weights, but with the `tokens_mlp_dim` of its weights. Downloads only `hf://` files."""
    if not recipe.weights:
        return recipe
    variant, shape = recipe.architecture(), recipe.input_shape()
    dim = variant.tokens_mlp_dim
    if recipe.resolution_method == "block_diagonal" and not recipe.weights.endswith(".weights.h5"):
        grid = variant.grid(shape)
        if recipe.weights in published.names():
            made_for = published.find(recipe.weights, variant).grid
        else:
            made_for = open_weights(recipe.weights, variant).grid_for(grid)
        dim = widened_dim(dim, made_for, grid)
    return dataclasses.replace(recipe, weights=None, tokens_mlp_dim=dim)


def _source_of_shapes(recipe, classes):
    """A data set that is never read, to ask the input pipeline which tensors it makes."""
    import tensorflow as tf

    size = recipe.global_batch_size
    elements = tf.data.Dataset.from_tensors({"image": tf.constant(b""), "label": tf.constant(0, tf.int64)}).repeat(size)
    split = Split(size, classes, elements, lambda element: element)
    return Source("shapes", tuple(map(str, range(classes))), split, split)

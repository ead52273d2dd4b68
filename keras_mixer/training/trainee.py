"""The model that a run trains: where it starts, and how it is built and compiled for the devices."""

import contextlib
import dataclasses

import keras
import numpy as np

from keras_mixer.data.sources import Source
from keras_mixer.models import Mixer, MixerModel, blocks_of, rebuild
from keras_mixer.training.accumulation import AccumulatingModel
from keras_mixer.training.distribution import Devices
from keras_mixer.training.optimizers import build_loss, build_optimizer
from keras_mixer.training.recipe import Recipe
from keras_mixer.weights.loading import WeightFile, load_weights, open_weights


def start_model(recipe: Recipe, source: Source, report) -> MixerModel:
    """The recipe's model of logits with the weights that training starts from."""
    variant, method = recipe.architecture(), recipe.resolution_method
    grid = variant.grid(recipe.input_shape())
    weights: str | WeightFile | None = recipe.weights
    if recipe.weights and method == "block_diagonal" and not recipe.weights.endswith(".weights.h5"):
        weights = file = open_weights(recipe.weights, variant)
        variant = file.widened(variant, grid)
    model = Mixer(
        **dataclasses.asdict(variant),
        input_shape=recipe.input_shape(),
        classes=len(source.class_names),
        classifier_activation=None,
        dropout_rate=recipe.dropout_rate,
        drop_path_rate=recipe.drop_path_rate,
        name=f"mixer_{recipe.name}",
    )
    if weights:
        load_weights(model, weights, method=method, report=report)
    head = model.get_layer("head")
    if not head.kernel.numpy().any():
        head.bias.assign(np.full(head.bias.shape, recipe.head_bias))
    model.class_names = source.class_names
    model.evaluation_crop = recipe.evaluation_crop
    return model


def build_trainee(start, recipe: Recipe, total_steps, devices: Devices):
    """A copy of `start` with the recipe's optimizer and number format; within the devices' scope.

    Returns:
        A compiled `keras.Model` from pixels to logits, its weights in the order of those of `start`.
    """
    keras.utils.set_random_seed(recipe.seed)
    with _policy(recipe.precision):
        model = rebuild(start)
    for block in blocks_of(model):
        block.rematerialize = recipe.rematerialize
    if recipe.accumulation_steps > 1:
        model = AccumulatingModel(model.inputs, model.outputs[0], name=model.name)
        model.pieces = recipe.accumulation_steps
    model.set_weights(start.get_weights())
    devices.separate_noise(model)
    optimizer = build_optimizer(recipe, total_steps)
    optimizer.build(model.trainable_variables)
    compile_trainee(model, optimizer, recipe, devices)
    return model


def compile_trainee(model, optimizer, recipe: Recipe, devices: Devices, steps_per_execution=1):
    """Compiles, or compiles again for other steps per execution; the optimizer keeps its state."""
    model.compile(
        optimizer=optimizer,
        loss=build_loss(recipe),
        weighted_metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        jit_compile=devices.jit_compile,
        steps_per_execution=steps_per_execution,
    )


@contextlib.contextmanager
def _policy(precision):
    """Builds layers in another number format without leaving it behind for the caller's own models."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)

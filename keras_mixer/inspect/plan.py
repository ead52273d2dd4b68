"""Steps, model size, cost and memory of a recipe, computed without reading its data."""

import dataclasses
import math
import re
from pathlib import Path

from keras_mixer.data.sources import image_folder
from keras_mixer.training.fit import starting_weights
from keras_mixer.training.inputs import held_out_places
from keras_mixer.training.recipe import Recipe
from keras_mixer.variants import token_grid
from keras_mixer.weights import published
from keras_mixer.weights.resolution import widened

# Training images and classes of the data sets in the recipes. Source: the catalogue of TensorFlow Datasets.
KNOWN_DATA = {
    "cifar10": (50_000, 10),
    "digits": (1797, 10),  # of scikit-learn, training and test images together
    "fashion_mnist": (60_000, 10),
    "imagenet2012": (1_281_167, 1000),
    "imagenet21k": (None, 21_843),  # not in the catalogue: the classes of the published heads
}
SLOTS = {"adamw": 2, "muon": 1, "sgd": 1}  # optimizer variables per weight; Muon: of the blocks, nearly all weights


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe in numbers; None if a number depends on data that have not been read."""

    examples: int | None  # training images
    classes: int | None
    steps_per_epoch: int | None
    total_steps: int | None
    parameters: int  # without the head if the number of classes is unknown
    macs: int  # multiply-accumulate operations per image
    weight_and_optimizer_bytes: int  # of weights (twice with SAM), gradients, optimizer and moving average


def plan(recipe: Recipe) -> Plan:
    """The plan of a recipe.

    Raises:
        ValueError: the patch does not divide the image, or the weights are not published for these sizes.
    """
    folder = image_folder(recipe.data)
    images, classes = (None, None) if folder else KNOWN_DATA.get(recipe.data, (None, None))
    examples = None if images is None else _training_images(recipe, images)
    recipe = recipe if examples is None else recipe.for_images(examples)
    variant, shape = recipe.architecture(), recipe.input_shape()
    if recipe.weights and recipe.resolution_method == "block_diagonal":
        grid = token_grid(shape[:2], variant.patch_size)
        if recipe.weights in published.NAMES:  # which are not downloaded for a plan
            variant = widened(variant, published.find(recipe.weights, variant).grid, grid)
        elif Path(recipe.weights).expanduser().exists():
            variant = widened(variant, starting_weights(recipe).grid_for(grid), grid)
    parameters = variant.parameters(shape, classes or 0)
    copies = 2 + SLOTS[recipe.optimizer] + (recipe.ema_momentum is not None) + (recipe.sam_rho > 0)
    return Plan(
        examples=examples,
        classes=classes,
        steps_per_epoch=recipe.steps_per_epoch,
        total_steps=recipe.steps or (recipe.steps_per_epoch and recipe.steps_per_epoch * recipe.epochs),
        parameters=parameters,
        macs=variant.macs(shape, classes or 0),
        weight_and_optimizer_bytes=4 * copies * parameters,
    )


def _training_images(recipe, images):
    """How many of them the recipe trains on; None if its `train_split` is not a percentage."""
    if recipe.data == "digits":  # always split by test_fraction, rounded as in scikit-learn; train_split is not used
        images -= math.ceil(images * recipe.test_fraction)
    elif part := re.fullmatch(r"train(?:\[:(\d+)%\])?", recipe.train_split):
        images = round(images * int(part[1] or 100) / 100)
    else:
        return None
    return images - int(held_out_places(images, recipe.holdout).sum())

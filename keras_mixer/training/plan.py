"""What a recipe would do, worked out without touching its data: steps, size, cost, memory."""

import dataclasses
import math
import re

import keras

from keras_mixer.training.recipe import Recipe
from keras_mixer.variants import token_grid

# Training examples and classes of data sets that the recipes name. Source: the catalogue of TensorFlow Datasets.
KNOWN_DATA = {
    "cifar10": (50_000, 10),
    "cifar100": (50_000, 100),
    "imagenet2012": (1_281_167, 1000),
    "imagenet21k": (None, 21_843),  # not in the catalogue: the classes of the published heads
    "oxford_flowers102": (1020, 102),
    "oxford_iiit_pet": (3680, 37),
}
DIGITS = (1797, 10)  # of scikit-learn, training and test images together
# Numbers that a block keeps for its gradient: for each hidden unit of both MLPs, and for each number of x. TensorFlow:
# fitted to peak memory of training steps of S/32, S/16 and B/16 (float32, on a CPU). JAX: to what the TPU compiler says
# of S/32, B/16 and L/16 (mixed_bfloat16, v5e), see docs/guides/tpu.md. Both are met within 15 %.
KEPT_OF_HIDDEN = {"tensorflow": 3, "jax": 1}
KEPT_OF_TOKENS = {"tensorflow": 9.5, "jax": 1.5}
KEPT_OF_REMATERIALIZED = {"tensorflow": 4, "jax": 2}  # for each number of x: the inputs of both halves of a block
SLOTS = {"adamw": 2, "sgd": 1}


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe in numbers; None where they depend on data that have not been read.

    Attributes:
        examples: training images.
        classes: their classes.
        steps_per_epoch: optimizer steps.
        total_steps: of the run.
        parameters: of the model; with the head only where the number of classes is known.
        macs: multiply-accumulates for one image.
        weight_bytes: weights, gradients, optimizer and running average.
        activation_bytes: what one device keeps for the gradient, an estimate.
    """

    examples: int | None
    classes: int | None
    steps_per_epoch: int | None
    total_steps: int | None
    parameters: int
    macs: int
    weight_bytes: int
    activation_bytes: int


def plan(recipe: Recipe, devices=1, backend=None) -> Plan:
    """Works a recipe out for a number of devices.

    Args:
        recipe: what to train.
        devices: how many share a batch.
        backend: "tensorflow" estimates memory for TensorFlow on a CPU, "jax" for JAX on a TPU; None for Keras's own.

    Raises:
        ValueError: the sizes of the model do not fit the image.

    Source: ours; parameters and multiply-accumulates are exact, see `keras_mixer.VARIANTS`.
    """
    variant = recipe.architecture()
    examples, classes = _known(recipe)
    steps_per_epoch = None if examples is None else examples // recipe.global_batch_size
    total = recipe.steps or (None if steps_per_epoch is None else steps_per_epoch * recipe.epochs)
    shape = recipe.input_shape()
    parameters = variant.parameters(shape, classes or 0)
    copies = 2 + SLOTS[recipe.optimizer] + (recipe.ema_momentum is not None)
    images = recipe.global_batch_size // devices // recipe.accumulation_steps
    return Plan(
        examples=examples,
        classes=classes,
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
        parameters=parameters,
        macs=variant.macs(shape, classes or 0),
        weight_bytes=4 * copies * parameters,
        activation_bytes=images * _bytes_of_an_image(recipe, variant, classes or 0, backend or keras.backend.backend()),
    )


def _known(recipe):
    """Training images and classes, as far as they are known."""
    if recipe.data == "digits":  # split by test_fraction, whatever train_split says
        total, ten = DIGITS
        return _without(recipe.holdout, total - math.ceil(total * recipe.test_fraction)), ten  # as scikit-learn rounds
    images, classes = KNOWN_DATA.get(recipe.data, (None, None))
    part = re.fullmatch(r"train(?:\[:(\d+)%\])?", recipe.train_split)
    if images is None or part is None:
        return None, classes
    return _without(recipe.holdout, round(images * int(part[1] or 100) / 100)), classes


def _without(share, images):
    """How many are left when `hold_out` has taken its share."""
    return images - int(images * share + 1e-9)


def _bytes_of_an_image(recipe, variant, classes, backend):
    """What a device keeps of one image until its gradient is known."""
    grid = token_grid(recipe.input_shape()[:2], (variant.patch_size, variant.patch_size))
    tokens = grid[0] * grid[1]
    hidden = variant.hidden_dim * variant.tokens_mlp_dim + tokens * variant.channels_mlp_dim
    block = KEPT_OF_HIDDEN[backend] * hidden + KEPT_OF_TOKENS[backend] * tokens * variant.hidden_dim
    # On a TPU also the batch: pixels in float32 and bfloat16, labels and the terms of the loss in float32.
    outside = 6 * math.prod(recipe.input_shape()) + 20 * classes if backend == "jax" else 0
    numbers = variant.num_blocks * block
    if recipe.rematerialize:  # and the insides of one block at a time
        numbers = variant.num_blocks * KEPT_OF_REMATERIALIZED[backend] * tokens * variant.hidden_dim + block
    return int(numbers * (2 if recipe.precision == "mixed_bfloat16" else 4)) + outside

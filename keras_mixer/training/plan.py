"""Steps, model size, cost and memory of a recipe, computed without reading its data."""

import dataclasses
import math
import re

import keras

from keras_mixer.data.splits import held_out_places
from keras_mixer.training.recipe import Recipe

# Training images and classes of the data sets in the recipes. Source: the catalogue of TensorFlow Datasets.
KNOWN_DATA = {
    "cifar10": (50_000, 10),
    "cifar100": (50_000, 100),
    "fashion_mnist": (60_000, 10),
    "imagenet2012": (1_281_167, 1000),
    "imagenet21k": (None, 21_843),  # not in the catalogue: the classes of the published heads
    "oxford_flowers102": (1020, 102),
    "oxford_iiit_pet": (3680, 37),
}
DIGITS = (1797, 10)  # of scikit-learn, training and test images together
# Values that a block stores for its gradient, per hidden unit of both MLPs and per value of x; error at most 15 %.
# TensorFlow: fitted to the peak memory of training steps of S/32, S/16 and B/16 (float32, CPU). JAX: fitted to the
# figures of the TPU compiler for S/32, B/16 and L/16 (mixed_bfloat16, v5e), see docs/guides/tpu.md.
STORED_PER_HIDDEN = {"tensorflow": 3, "jax": 1}
STORED_PER_INPUT = {"tensorflow": 9.5, "jax": 1.5}
STORED_REMATERIALIZED = {"tensorflow": 4, "jax": 2}  # per value of x: the inputs of both halves of a block
SLOTS = {"adamw": 2, "muon": 1, "sgd": 1}  # optimizer variables per weight; Muon: of the blocks, nearly all weights


@dataclasses.dataclass(frozen=True)
class Plan:
    """A recipe in numbers; None if a number depends on data that have not been read.

    Attributes:
        examples: number of training images.
        classes: number of classes.
        steps_per_epoch: optimizer steps per epoch.
        total_steps: optimizer steps of the run.
        parameters: parameters of the model, without the head if the number of classes is unknown.
        macs: multiply-accumulate operations per image.
        weight_bytes: memory of weights (and perturbed weights, with SAM), gradients, optimizer and moving average.
        activation_bytes: memory of the activations that one device stores for the gradient, estimated.
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
    """Computes the plan of a recipe for a number of devices.

    Args:
        recipe: what to train.
        devices: how many share a batch.
        backend: "tensorflow" estimates memory for TensorFlow on a CPU, "jax" for JAX on a TPU; None for Keras's own.

    Raises:
        ValueError: the patch does not divide the image.

    Source: ours; parameters and multiply-accumulate operations are exact, see `keras_mixer.VARIANTS`.
    """
    variant = recipe.architecture()
    examples, classes = _known(recipe)
    steps_per_epoch = recipe.steps_per_epoch if examples is None else recipe.epoch_steps(examples)
    total = recipe.steps or (steps_per_epoch and steps_per_epoch * recipe.epochs)
    shape = recipe.input_shape()
    parameters = variant.parameters(shape, classes or 0)
    copies = 2 + SLOTS[recipe.optimizer] + (recipe.ema_momentum is not None) + (recipe.sam_rho > 0)
    images = recipe.global_batch_size // devices // recipe.accumulation_steps
    return Plan(
        examples=examples,
        classes=classes,
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
        parameters=parameters,
        macs=variant.macs(shape, classes or 0),
        weight_bytes=4 * copies * parameters,
        activation_bytes=images * _bytes_per_image(recipe, variant, classes or 0, backend or keras.backend.backend()),
    )


def _known(recipe):
    """Number of training images and classes, None if unknown."""
    if recipe.data == "digits":  # always split by test_fraction; train_split is not used
        total, digits = DIGITS
        training = total - math.ceil(total * recipe.test_fraction)  # rounded as in scikit-learn
        return _without(recipe.holdout, training), digits
    images, classes = KNOWN_DATA.get(recipe.data, (None, None))
    part = re.fullmatch(r"train(?:\[:(\d+)%\])?", recipe.train_split)
    if images is None or part is None:
        return None, classes
    return _without(recipe.holdout, round(images * int(part[1] or 100) / 100)), classes


def _without(fraction, images):
    """Number of training images that `hold_out` leaves."""
    return images - int(held_out_places(images, fraction).sum())


def _bytes_per_image(recipe, variant, classes, backend):
    """Memory of one image on a device: the activations stored for the gradient and, on a TPU, the batch."""
    tokens = math.prod(variant.grid(recipe.input_shape()))
    of_tokens = 0 if recipe.rematerialize_tokens else variant.hidden_dim * variant.tokens_mlp_dim
    hidden = of_tokens + tokens * variant.channels_mlp_dim
    block = STORED_PER_HIDDEN[backend] * hidden + STORED_PER_INPUT[backend] * tokens * variant.hidden_dim
    # On a TPU the batch too: pixels in float32 and bfloat16, labels and loss terms in float32.
    outside = 6 * math.prod(recipe.input_shape()) + 20 * classes if backend == "jax" else 0
    stored = variant.num_blocks * block
    if recipe.rematerialize:  # and all of one block at a time
        stored = variant.num_blocks * STORED_REMATERIALIZED[backend] * tokens * variant.hidden_dim + block
    return int(stored * (2 if recipe.precision == "mixed_bfloat16" else 4)) + outside

"""How fast a model runs, and how near that is to what the machine can do."""

import dataclasses
import time
from typing import Literal

import keras
import numpy as np

from keras_mixer.models import Mixer, blocks_of, dtype_policy
from keras_mixer.training.optimizers import AdamW
from keras_mixer.variants import VARIANTS

LIMIT_SIDE = 4096  # of the square matrices whose product is the limit
CLASSES = 1000
TRAINING_COST = 3  # of a forward pass: the gradient takes two products for each of its own


@dataclasses.dataclass(frozen=True)
class Case:
    """What is timed.

    Attributes:
        kind: "forward" (images to probabilities) or "train" (one AdamW step with the gradient clipped).
        variant: row of Table 1.
        batch_size: images in a call.
        precision: of the arithmetic.
        image_size: side of the images in pixels.
    """

    kind: Literal["forward", "train"]
    variant: str
    batch_size: int
    precision: Literal["float32", "bfloat16"] = "float32"
    image_size: int = 224

    @property
    def name(self) -> str:
        """For tables: `B/16 train bfloat16 x 16`."""
        return f"{self.variant} {self.kind} {self.precision} x {self.batch_size}"

    def operations(self) -> float:
        """Floating-point operations of a call: two for each multiply-accumulate of the matrix products."""
        shape = (self.image_size, self.image_size, 3)
        forward = 2.0 * VARIANTS[self.variant].macs(shape, CLASSES) * self.batch_size
        return forward * (TRAINING_COST if self.kind == "train" else 1)


# Kinds and batch sizes of the performance targets
CALLS: tuple[tuple[Literal["forward", "train"], int], ...] = (
    ("forward", 1),
    ("forward", 8),
    ("forward", 32),
    ("train", 16),
)


def model_of(case: Case):
    """The model of a case: probabilities for a forward pass, logits for training."""
    sizes = dataclasses.asdict(VARIANTS[case.variant])
    activation = None if case.kind == "train" else "softmax"
    shape = (case.image_size, case.image_size, 3)
    with dtype_policy("mixed_bfloat16" if case.precision == "bfloat16" else "float32"):
        return Mixer(**sizes, input_shape=shape, classes=CLASSES, classifier_activation=activation)


def compiled_model(case: Case, rematerialize=False):
    """The model of a case, compiled; for training with AdamW and the gradient clipped."""
    model = model_of(case)
    on_tensorflow = keras.backend.backend() == "tensorflow"  # XLA is slower than TensorFlow's own kernels on CPUs
    jit_compile = False if on_tensorflow else "auto"
    if case.kind == "forward":
        model.compile(jit_compile=jit_compile)
        return model
    for block in blocks_of(model):
        block.rematerialize = rematerialize
    model.compile(
        optimizer=AdamW(1e-4, weight_decay=0.1, global_clipnorm=1.0),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def prepare(case: Case, rematerialize=False):
    """A function without arguments that makes one call of a case and returns when its result is there."""
    model = compiled_model(case, rematerialize)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (case.batch_size, case.image_size, case.image_size, 3)).astype(np.float32)
    if case.kind == "forward":
        return lambda: model.predict_on_batch(images)
    labels = np.eye(CLASSES, dtype=np.float32)[generator.integers(0, CLASSES, case.batch_size)]
    return lambda: model.train_on_batch(images, labels)


def prepare_limit(precision, side=LIMIT_SIDE):
    """A function without arguments that makes one product of square matrices; see `limit_operations`."""
    x = keras.random.normal((side, side), dtype=precision, seed=0)
    return lambda: keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.matmul(x, x)[0, 0], "float32"))


def limit_operations(side=LIMIT_SIDE) -> float:
    """Floating-point operations of one call of `prepare_limit`."""
    return 2.0 * side**3


def rounds(call, seconds) -> list[float]:
    """Seconds of each call, for about so long and at least three times."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times

"""Measured speed and memory of models, and how close they come to the speed of a matrix product."""

import dataclasses
import functools
import time
from pathlib import Path
from typing import Literal

import keras
import numpy as np

from keras_mixer.anatomy import rebuild
from keras_mixer.models import Mixer
from keras_mixer.training.optimizers import AdamW
from keras_mixer.variants import VARIANTS

LIMIT_SIDE = 4096  # of the square matrices whose product sets the speed limit
CLASSES = 1000
TRAINING_COST = 3  # forward passes: the gradient needs two products for each one of the forward pass


@dataclasses.dataclass(frozen=True)
class Case:
    """One benchmark case.

    Attributes:
        kind: "forward" (images to probabilities) or "train" (one AdamW step with gradient clipping).
        variant: row of Table 1.
        batch_size: images per call.
        precision: of the computation.
        image_size: side of the images in pixels.
    """

    kind: Literal["forward", "train"]
    variant: str
    batch_size: int
    precision: Literal["float32", "bfloat16"] = "float32"
    image_size: int = 224

    @property
    def name(self) -> str:
        """Row name in tables: `B/16 train bfloat16 x 16`."""
        return f"{self.variant} {self.kind} {self.precision} x {self.batch_size}"

    def operations(self) -> float:
        """Floating-point operations per call: two for each multiply-accumulate of the matrix products."""
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


def model_of(case: Case, rematerialize=False):
    """The model of a case: returns probabilities for a forward pass, logits for training."""
    sizes = dataclasses.asdict(VARIANTS[case.variant])
    activation = None if case.kind == "train" else "softmax"
    shape = (case.image_size, case.image_size, 3)
    model = Mixer(**sizes, input_shape=shape, classes=CLASSES, classifier_activation=activation)
    precision = "mixed_bfloat16" if case.precision == "bfloat16" else "float32"
    return rebuild(model, precision=precision, rematerialize=rematerialize)


def compiled_model(case: Case, rematerialize=False, xla="auto"):
    """The compiled model of a case; for training, with AdamW and gradient clipping.

    Args:
        case: what is measured.
        rematerialize: recompute both MLPs of each block for the gradient.
        xla: compile with XLA or not; "auto" for Keras's choice, which the package uses too: not on a CPU.
    """
    model = model_of(case, rematerialize)
    if case.kind == "forward":
        model.compile(jit_compile=xla)
        return model
    model.compile(
        optimizer=AdamW(1e-4, weight_decay=0.1, global_clipnorm=1.0),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        jit_compile=xla,
    )
    model.optimizer.build(model.trainable_variables)
    return model


def prepare(case: Case, rematerialize=False, xla="auto"):
    """A function without arguments that runs one call of a case and waits for its result; see `compiled_model`."""
    model = compiled_model(case, rematerialize, xla)
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (case.batch_size, case.image_size, case.image_size, 3)).astype(np.float32)
    if case.kind == "forward":
        return lambda: model.predict_on_batch(images)
    labels = np.eye(CLASSES, dtype=np.float32)[generator.integers(0, CLASSES, case.batch_size)]
    return lambda: model.train_on_batch(images, labels)


def prepare_limit(precision, side=LIMIT_SIDE):
    """A function without arguments that computes one product of square matrices; see `limit_operations`."""
    x = keras.random.normal((side, side), dtype=precision, seed=0)
    return lambda: keras.ops.convert_to_numpy(keras.ops.cast(keras.ops.matmul(x, x)[0, 0], "float32"))


def limit_operations(side=LIMIT_SIDE) -> float:
    """Floating-point operations per call of `prepare_limit`."""
    return 2.0 * side**3


def time_calls(call, seconds, fewest=3) -> list[float]:
    """Seconds of each call, repeated for about `seconds` and at least `fewest` times."""
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < fewest or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


@dataclasses.dataclass(frozen=True)
class Throughput:
    """Measured speed and memory of a model at one batch size.

    Attributes:
        batch_size: images per call.
        images_per_second: of the fastest call.
        peak_bytes: peak memory during the calls, of the GPU or of the whole process; None if unknown.
    """

    batch_size: int
    images_per_second: float
    peak_bytes: int | None


def throughput(model, batch_sizes=(1, 8, 32), seconds=2.0) -> list[Throughput]:
    """Measures the forward pass at each batch size, with the images already in memory.

    Args:
        model: any Keras model that takes images.
        batch_sizes: images per call.
        seconds: how long to measure each batch size, after two warm-up calls.

    Returns:
        One `Throughput` per batch size.
    """
    generator = np.random.default_rng(0)
    results = []
    for size in batch_sizes:
        pixels = generator.integers(0, 256, (size, *model.input_shape[1:])).astype(np.float32)
        images = keras.ops.convert_to_tensor(pixels)
        call = functools.partial(model.predict_on_batch, images)  # returns NumPy arrays, so it waits for the result
        for _ in range(2):
            call()
        _reset_peak()
        results.append(Throughput(size, size / min(time_calls(call, seconds)), _peak()))
    return results


def _gpu_statistics():
    """TensorFlow's module with memory statistics of GPUs; None without a GPU."""
    import tensorflow as tf  # not at the top: benchmarks on JAX use this file without TensorFlow

    return tf.config.experimental if tf.config.list_logical_devices("GPU") else None


def _reset_peak():
    if gpu := _gpu_statistics():
        gpu.reset_memory_stats("GPU:0")
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # Linux: resets the peak
    except OSError:
        return


def _peak():
    if gpu := _gpu_statistics():
        return gpu.get_memory_info("GPU:0")["peak"]
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)

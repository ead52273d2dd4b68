"""What a model costs: parameters and multiply-accumulates exactly, images a second and memory as measured."""

import dataclasses
import math
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_mixer.models import arguments_of
from keras_mixer.variants import Variant

PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Conv2D", "Einsum")


@dataclasses.dataclass(frozen=True)
class Throughput:
    """What was measured at one batch size.

    Attributes:
        batch_size: images in a call.
        images_per_second: by the fastest call.
        peak_bytes: most memory in use during the calls, of the GPU or of the whole process; None where it cannot be
            told.
    """

    batch_size: int
    images_per_second: float
    peak_bytes: int | None


def exact_cost(model) -> tuple[int, int]:
    """`(parameters, multiply-accumulates of one image)` of a Mixer by the formulas of `keras_mixer.variants`.

    Raises:
        ValueError: `model` is no Mixer of this package.
    """
    arguments = arguments_of(model)
    variant = Variant(**{field.name: arguments[field.name] for field in dataclasses.fields(Variant)})
    classes = arguments["classes"] if arguments["include_top"] else 0
    return variant.parameters(arguments["input_shape"], classes), variant.macs(arguments["input_shape"], classes)


def traced_macs(model) -> int:
    """Multiply-accumulates of one image, counted over the matrix products and convolutions of the traced graph.

    Works for any Keras model on the TensorFlow backend, attention included, and knows nothing of the formulas.

    Raises:
        ValueError: another backend, or a product whose size the graph leaves open.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError("Graphs are traced on the TensorFlow backend; set KERAS_BACKEND=tensorflow.")
    image = tf.TensorSpec((1, *model.input_shape[1:]), "float32")
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(image).graph
    graphs, seen, total = [graph], set(), 0
    while graphs:
        current = graphs.pop()
        for operation in current.get_operations():
            if operation.type in PRODUCTS:
                total += _macs_of(operation)
            for name in ("f", "body", "then_branch"):  # functions that this operation calls
                function = operation.node_def.attr[name].func.name if name in operation.node_def.attr else ""
                if function and function not in seen:
                    seen.add(function)
                    graphs.append(current._get_function(function).graph)
    return total


def _macs_of(operation):
    shapes = [tuple(tensor.shape) for tensor in operation.inputs]
    (output,) = (tuple(tensor.shape) for tensor in operation.outputs)
    if any(None in shape for shape in (*shapes, output)):
        raise ValueError(f"The graph leaves the size of {operation.name} open: {shapes} -> {output}.")
    if operation.type == "Conv2D":
        height, width, channels, _ = shapes[1]
        return math.prod(output) * height * width * channels
    if operation.type == "Einsum":
        letters = operation.get_attr("equation").decode().split("->")[0].split(",")
        sides: dict[str, int] = {}
        for part, shape in zip(letters, shapes, strict=True):
            sides |= dict(zip(part, shape, strict=True))
        return math.prod(sides.values())
    transposed = "transpose_a" if operation.type == "MatMul" else "adj_x"
    return math.prod(output) * shapes[0][-2 if operation.get_attr(transposed) else -1]


def throughput(model, batch_sizes=(1, 8, 32), seconds=2.0) -> list[Throughput]:
    """Images a second of the forward pass, for each batch size, images already in memory.

    Args:
        model: any Keras model of images.
        batch_sizes: images in a call.
        seconds: how long to measure each, after two calls that are not counted.

    Returns:
        One `Throughput` for each batch size.
    """
    generator = np.random.default_rng(0)
    return [
        _throughput(model, generator.integers(0, 256, (size, *model.input_shape[1:])).astype(np.float32), seconds)
        for size in batch_sizes
    ]


def _throughput(model, images, seconds):
    images = keras.ops.convert_to_tensor(images)
    for _ in range(2):
        model.predict_on_batch(images)
    _reset_peak()
    best, end = math.inf, time.perf_counter() + seconds
    while time.perf_counter() < end:
        began = time.perf_counter()
        model.predict_on_batch(images)  # waits for the result: it is a NumPy array
        best = min(best, time.perf_counter() - began)
    return Throughput(len(images), len(images) / best, _peak())


def _gpu():
    return "GPU:0" if tf.config.list_logical_devices("GPU") else None


def _reset_peak():
    if _gpu():
        tf.config.experimental.reset_memory_stats(_gpu())
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # Linux: forget the largest size so far
    except OSError:
        return


def _peak():
    if _gpu():
        return tf.config.experimental.get_memory_info(_gpu())["peak"]
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)

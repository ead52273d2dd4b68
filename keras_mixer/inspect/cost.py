"""Exact cost of a model: parameters and multiply-accumulates, from the formulas and from the traced graph."""

import math

import keras
import tensorflow as tf

from keras_mixer.anatomy import anatomy

PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Conv2D", "Einsum")


def exact_cost(model) -> tuple[int, int]:
    """`(parameters, multiply-accumulates per image)` of a Mixer, from the formulas of `keras_mixer.variants`.

    Raises:
        ValueError: `model` is not a Mixer of this package.
    """
    parts, shape = anatomy(model), model.input_shape[1:]
    classes = parts.head.units if parts.head is not None else 0
    return parts.variant().parameters(shape, classes), parts.variant().macs(shape, classes)


def traced_macs(model) -> int:
    """Multiply-accumulates per image, counted in the matrix products and convolutions of the traced graph.

    Works for any Keras model on the TensorFlow backend, including attention, and independently of the formulas.

    Raises:
        ValueError: the backend is not TensorFlow, or the size of a product is not known from the graph.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            f"Expected the TensorFlow backend, got {keras.backend.backend()}. Set KERAS_BACKEND=tensorflow."
        )
    image = tf.TensorSpec((1, *model.input_shape[1:]), "float32")
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(image).graph
    graphs, seen, total = [graph], set(), 0
    while graphs:
        current = graphs.pop()
        for operation in current.get_operations():
            if operation.type in PRODUCTS:
                total += _macs_of(operation)
            for name in ("f", "body", "then_branch"):  # functions called by this operation
                function = operation.node_def.attr[name].func.name if name in operation.node_def.attr else ""
                if function and function not in seen:
                    seen.add(function)
                    graphs.append(current._get_function(function).graph)
    return total


def _macs_of(operation):
    shapes = [tuple(tensor.shape) for tensor in operation.inputs]
    (output,) = (tuple(tensor.shape) for tensor in operation.outputs)
    if any(None in shape for shape in (*shapes, output)):
        raise ValueError(f"The graph does not define the size of {operation.name}: {shapes} -> {output}.")
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

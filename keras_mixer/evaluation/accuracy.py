"""Accuracy and loss of a classifier on a data set, counting each example exactly once."""

import dataclasses
import re
import warnings

import keras
import numpy as np

from keras_mixer.anatomy import Anatomy, activation_of
from keras_mixer.data.batches import evaluation_batches
from keras_mixer.data.splits import naming_damaged_files
from keras_mixer.evaluation.outputs import class_numbers, confusion_of, guesses, outputs_of, warn_of_nan, warn_of_range

ACTIVATIONS = ("softmax", "sigmoid")  # from logits to probabilities
NUMERIC_LOSS = re.compile("mse|mae|mape|msle|huber.*|log_?cosh|mean_?(squared|absolute).*", re.IGNORECASE)
BINARY_LOSS = re.compile("bce|binary_?(focal_?)?crossentropy|sigmoid_cross_entropy", re.IGNORECASE)
SMALLEST_PROBABILITY = 1e-12  # keeps the loss finite if float32 rounds a probability to 0
LARGEST_BATCH = 512  # images on one device: a training batch may be meant for many
TOLERANCE = 1e-3  # how far rounding may take a probability out of [0, 1]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The result of `evaluate`.

    Among classes with the same probability, the one with the lower index ranks first. NaN is not ranked: an image whose
    label has probability NaN never counts as correct.

    Attributes:
        examples: number of images, including those whose outputs are not finite.
        top1: fraction of images whose most probable class is the label.
        top5: fraction of images whose label is among the five most probable classes.
        loss: mean of -log(probability of the label), natural logarithm; NaN if any such probability is.
        confusion: `(classes, classes)` int64; rows are labels, columns predicted classes. Images whose outputs are all
            NaN are left out.
        examples_per_class: `(classes,)` int64, number of images per class.
        non_finite: number of images with an output that is NaN or infinite.
    """

    examples: int
    top1: float
    top5: float
    loss: float
    confusion: np.ndarray
    examples_per_class: np.ndarray
    non_finite: int

    def per_class(self) -> np.ndarray:
        """`(classes,) float64`: top-1 accuracy per class, NaN for a class without examples."""
        with np.errstate(invalid="ignore"):
            return np.diag(self.confusion) / self.examples_per_class


def evaluate(model, dataset, *, progress=False) -> Evaluation:
    """Measures accuracy and loss of a classifier on a data set; keeps a few numbers per image in memory.

    Warns of outputs that are not finite, or the same for all images, and of pixels that cannot be in the range that the
    model expects, as far as its first layer tells.

    Args:
        model: maps images `(B, H, W, channels)` to probabilities `(B, classes)`; a single sigmoid output is the
            probability of class 1 of two. A last layer without activation gives logits, which become probabilities by
            softmax, or by sigmoid if the model has one output or was compiled with a binary cross-entropy. Also what
            `keras_mixer.load` returns.
        dataset: `(images, labels)` batches in a list, generator, `tf.data.Dataset` or `keras.utils.PyDataset`; or two
            arrays `(images, labels)`. Labels are class numbers `(B,)` or `(B, 1)`, also as floats, or one-hot rows
            `(B, classes)`. Pixels as the model expects them: a Mixer takes [0, 255], or [-1, 1] without preprocessing.
        progress: show a progress bar on standard error.

    Returns:
        An `Evaluation`.

    Raises:
        ValueError: the data set is empty or in another form (unbatched, weighted, soft labels, class names), a label is
            out of range, or the outputs of the model are neither probabilities nor logits.

    Example:
        >>> keras_mixer.evaluate(model, batches).top1  # doctest: +SKIP
        0.994
    """
    pixels, rows, first = list[float](), [], None
    for outputs, labels in outputs_of(model, dataset, "evaluating", progress, pixels):
        probabilities = _probabilities(model, outputs)
        labels, classes = class_numbers(labels, probabilities.shape[1]), probabilities.shape[1]
        first = probabilities[0] if first is None else first
        of_label = probabilities[np.arange(len(labels)), labels]
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]  # NaN last
        in_top5 = (best == labels[:, None]).any(1) & ~np.isnan(of_label)
        finite, same = np.isfinite(probabilities).all(1), (probabilities == first).all(1)
        rows.append((labels, guesses(probabilities), of_label, in_top5, finite, same))
    if not rows:
        raise ValueError("The data set to evaluate on is empty.")
    labels, guessed, of_label, in_top5, finite, same = map(np.concatenate, zip(*rows, strict=True))
    warn_of_range(pixels, pixel_range_of(model))
    if same.all() and len(labels) > 1:
        warnings.warn(f"All {len(labels):,} images have the same output: the model is untrained.", stacklevel=2)
    return Evaluation(
        examples=len(labels),
        top1=float(np.mean(guessed == labels)),
        top5=float(np.mean(in_top5)),
        loss=float(-np.log(np.maximum(of_label, SMALLEST_PROBABILITY)).mean()),
        confusion=confusion_of(labels, guessed, classes),
        examples_per_class=np.bincount(labels, minlength=classes),
        non_finite=warn_of_nan(finite),
    )


def evaluate_source(model, source, recipe, **options) -> Evaluation:
    """Accuracy on the test images of a `Source`, preprocessed as the recipe says; options are those of `evaluate`."""
    size, crop, batch = recipe.input_shape()[:2], recipe.evaluation_crop, min(recipe.global_batch_size, LARGEST_BATCH)
    batches = evaluation_batches(source.test, image_size=size, batch_size=batch, crop=crop)
    with naming_damaged_files(source.test):
        return evaluate(model, batches, **options)


def _probabilities(model, outputs) -> np.ndarray:
    """`(B, outputs) -> (B, classes) float64`, also of logits; a single output without softmax is that of class 1."""
    activation = activation_of(model)  # of a predictor too
    known = activation in ("linear", *ACTIVATIONS) or not hasattr(keras.activations, activation)
    if known and isinstance(outputs, np.ndarray) and outputs.ndim == 2:
        found, binary = np.asarray(outputs, np.float64), outputs.shape[1] == 1 and activation != "softmax"
        if activation == "linear":
            found = probabilities_of(found, implied_activation(model))
        finite = found[np.isfinite(found)]
        if finite.min(initial=0) >= -TOLERANCE and finite.max(initial=0) <= 1 + TOLERANCE:
            return np.concatenate([1 - found, found], 1) if binary else found
    raise ValueError(
        f"Expected class probabilities or logits (B, classes), got other outputs after {activation}. "
        "End the model in softmax, sigmoid or no activation; few_shot evaluates one without a head."
    )


def implied_activation(model) -> str:
    """The activation that the loss of a compiled model applies to its logits; ValueError if they are none."""
    functions = [getattr(loss, "fn", loss) for loss in keras.tree.flatten(getattr(model, "loss", None))]
    names = [getattr(function, "__name__", str(function)) for function in functions]  # a loss may have any `name`
    if numeric := next(filter(NUMERIC_LOSS.fullmatch, names), None):
        raise ValueError(f"A model compiled with {numeric} gives numbers, not classes. Use its own methods.")
    single = tuple(model.outputs[0].shape[1:]) == (1,)
    return "sigmoid" if single or any(map(BINARY_LOSS.fullmatch, names)) else "softmax"


def probabilities_of(logits, activation) -> np.ndarray:
    """`(B, classes) -> (B, classes) float64`: applies the activation in NumPy, independently of any model."""
    logits = np.asarray(logits, np.float64)
    if activation == "sigmoid":
        return np.exp(-np.logaddexp(0, -logits))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def pixel_range_of(model) -> tuple[float, float] | None:
    """Values of a black and a white pixel at the input of a Mixer; None if they or the kind of model are unknown."""
    try:
        return Anatomy(model).input_range()
    except ValueError:
        return None

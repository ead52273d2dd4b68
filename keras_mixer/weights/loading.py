"""The only loader of weights: `load_weights(model, source)`. A model changes only if all weights fit."""

import dataclasses
import logging
import math
from pathlib import Path

import ml_dtypes
import numpy as np

from keras_mixer.mixer_model import ClassifierHead
from keras_mixer.variants import Variant
from keras_mixer.weights import downloads, published
from keras_mixer.weights.imagenet_classes import same_classes
from keras_mixer.weights.layouts import FORMS, HIDDEN, WeightFile, plain_mixer, read_weights, weights_of
from keras_mixer.weights.resolution import adapt

LOG = logging.getLogger("keras_mixer")
SUFFIXES = (".npz", ".safetensors", ".keras", ".weights.h5")
FLOATS = (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)
HEAD = ("head/kernel", "head/bias")
ERF = "A file for exact (erf) GELU, pixels in {}. Other mean, std: Mixer(pixel_range=(-mean / std, (1 - mean) / std))."


def open_weights(source, variant: Variant | None = None) -> WeightFile:
    """Reads a source for `load_weights`, and raises as that does; a published name stands for one file per variant."""
    if isinstance(source, WeightFile):
        return source
    source = str(downloads.local(source))
    if source in published.NAMES:
        checkpoint = published.find(source, variant)
        file = read_weights(published.download(checkpoint))
        return dataclasses.replace(file, facts=checkpoint.facts, grid=checkpoint.grid)
    if not source.endswith(SUFFIXES):
        known = f"{', '.join(published.NAMES)}, a file that ends in {', '.join(SUFFIXES)}, or hf://owner/name/file"
        raise ValueError(f"weights={source!r} is not a known source: expected {known}; fit also takes a finished run.")
    return read_weights(Path(source))


def load_weights(model, source, *, head="auto", method=None, log=None):
    """Loads weights into a model, all or nothing.

    Args:
        model: a Mixer of this package.
        source: the name of a published checkpoint ("imagenet1k", "imagenet21k", "sam", "gsam", "miil", "miil_in21k");
            an `.npz` file in one of the two official layouts or with timm's names; a timm `.safetensors` file; a
            `.keras` or `.weights.h5` file of this package; `hf://owner/name[@revision][/file]` for such a file on the
            Hugging Face Hub.
        head: "auto" loads the head if its classes match, as far as they are known, and otherwise starts it at zero and
            logs that; "load" loads it in any case, and another number of classes is an error.
        method: for a model with another image size than the file. None or "block_diagonal" applies the paper's rule,
            which needs whole tiles and a model with D_S times their number; "bilinear" resizes the token weights to
            any grid and keeps D_S (not from the paper).
        log: called with each line about an adaptation, such as a head that starts at zero. None logs each line as a
            warning of the logger "keras_mixer", which Python prints by default.

    Returns:
        The same model.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, or belongs to a model with another GELU form or pixel range, or its arrays do
            not fit the model: lists those that are missing, unexpected or of the wrong shape, by the names of this
            package. The model is unchanged.

    Example:
        >>> model = keras_mixer.load_weights(keras_mixer.MixerB16(), "Mixer-B_16.npz")  # doctest: +SKIP
    """
    if head not in ("auto", "load"):
        raise ValueError(f'head must be "auto" or "load", got {head!r}.')
    mixer = plain_mixer(model, "load_weights")
    file, weights = open_weights(source, mixer.variant()), weights_of(mixer)
    for name in FORMS:
        found, own = getattr(file.facts, name), getattr(mixer.facts, name)
        if found not in (None, own):
            differs = f"{file.path} belongs to a model with {name}={found}, but this one has {name}={own}."
            raise ValueError(f"{differs} Build it with weights= and without {name}, which the file then gives.")
    shapes, lines = {name: tuple(weight.shape) for name, weight in weights.items()}, list(file.notes)
    arrays = {name: array for name, array in file.arrays.items() if name in shapes or name not in HEAD}
    try:
        grids = file.grid_for(mixer.grid), mixer.grid
        _check_fit(arrays, shapes, grids)
        if mixer.head is not None and (found := _other_head(file, mixer.head, head)):
            lines.append(f"The file has {found}, the model {mixer.head.units} classes: the head starts at zero.")
            arrays = {name: array for name, array in arrays.items() if name not in HEAD}
        adapt(arrays, shapes, grids, method or "block_diagonal", lines.append)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from error
    for name, weight in weights.items():
        weight.assign(arrays[name] if name in arrays else np.zeros(weight.shape))
    if file.facts.exact_gelu and file.facts.pixel_range is None:
        lines.append(ERF.format(list(mixer.stem.pixel_range)))
    for line in lines:
        (log or LOG.warning)(line)
    if "head/bias" in arrays and mixer.head is not None and mixer.head.class_names is None:
        for name in ClassifierHead.facts:
            setattr(mixer.head, name, getattr(file.facts, name) or getattr(mixer.head, name))
    return model


def _other_head(file, layer, head) -> str | None:
    """What the file has in place of the model's head; None for a head to load. ValueError if it must be loaded."""
    count = file.arrays["head/kernel"].shape[1] if "head/kernel" in file.arrays else 0
    same = count == layer.units
    if same and (head == "load" or same_classes(file.facts.class_names, layer.class_names)):
        return None
    found = f"{count}{' other' * same} classes" if count else "no head"
    if head == "load":
        raise ValueError(f"the head does not fit: {found} in the file, {layer.units} classes in the model.")
    return found


def _check_fit(arrays, shapes, grids):
    """Raises ValueError unless all arrays are finite and of the model's shapes, but for its `grids` (file, model)."""
    optional = () if set(HEAD) & set(arrays) else HEAD
    expected = {name: _expected_shape(name, shapes[name], arrays, grids) for name in shapes}
    problems = {
        "missing": [name for name in shapes if name not in arrays and name not in optional],
        "unexpected": [name for name in arrays if name not in shapes],
        "of the wrong shape": [
            f"{name} (expected {expected[name]}, found {array.shape})"
            for name, array in arrays.items()
            if name in shapes and array.shape != expected[name]
        ],
    }
    if any(problems.values()):
        lists = (f"{len(names)} {kind}: {', '.join(names[:20])}" for kind, names in problems.items() if names)
        raise ValueError(f"arrays do not fit the model; {'; '.join(lists)}.")
    for name, array in arrays.items():
        if array.dtype not in FLOATS or not np.isfinite(array).all():
            raise ValueError(f"array {name!r} has values that are not finite floating-point numbers.")


def _expected_shape(name, shape, arrays, grids):
    """The shape that an array of the file must have; the numbers of channels, classes and tokens may be its own."""
    if name == "stem/kernel" and name in arrays and arrays[name].ndim == 4:
        return (*shape[:2], arrays[name].shape[2] or shape[2], shape[3])
    if name in HEAD and "head/kernel" in arrays and arrays["head/kernel"].ndim == 2:
        return (*shape[:-1], arrays["head/kernel"].shape[1])
    if grids[0] != grids[1] and "/token_mixing/" in name and HIDDEN in arrays:
        sides = math.prod(grids[0]), arrays[HIDDEN].size
        sides = sides if "dense_0" in name else sides[::-1]
        return sides if name.endswith("kernel") else sides[1:]
    return shape

"""The only loader of weights: `load_weights(model, source)`. A model changes only if all weights fit."""

import dataclasses
import logging
import math
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np

from keras_mixer.anatomy import plain_mixer
from keras_mixer.imagenet_classes import same_classes
from keras_mixer.mixer_model import ClassifierHead, ModelFacts
from keras_mixer.variants import Variant
from keras_mixer.weights import downloads, published
from keras_mixer.weights.layouts import own_names, weights_of
from keras_mixer.weights.readers import load_keras, read_arrays
from keras_mixer.weights.resolution import HIDDEN, METHODS, adapt, tile_count

LOG = logging.getLogger("keras_mixer")
SUFFIXES = (".npz", ".safetensors", ".keras", ".weights.h5")
FLOATS = (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)
HEAD = ("head/kernel", "head/bias")
TOKENS = "mixer_block_0/token_mixing/dense_1/bias"  # one value per token
FORMS: dict[str, Any] = {"exact_gelu": False, "pixel_range": (-1.0, 1.0)}  # arguments of `Mixer` that weights decide
TIMM = "timm layout: exact (erf) GELU, pixels in {}. Another mean and std need pixel_range=(-mean / std, (1 - mean) / std)."


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """The weights of a Mixer, under our names; `grid` and `facts` are what the file says about its model."""

    path: Path
    arrays: dict[str, np.ndarray]
    origins: dict[str, str]  # their names in the file, for messages
    facts: ModelFacts
    grid: tuple[int, int] | None = None
    notes: tuple[str, ...] = ()  # lines for the user

    def grid_for(self, target_grid=None) -> tuple[int, int]:
        """The grid of the file; if it does not contain one, `target_grid` if the token count fits, else a square."""
        if self.grid:
            return self.grid
        tokens = self.arrays[TOKENS].size if TOKENS in self.arrays else 0
        if target_grid and tokens in (0, math.prod(target_grid)):  # 0: `load_weights` says what is damaged
            return target_grid
        side = math.isqrt(tokens)  # only our own files contain the grid; the published models saw square images
        if side * side == tokens > 0:
            return side, side
        raise ValueError(f"The {tokens} tokens of {self.path} are not a square grid. Load them at their image size.")

    def widened(self, variant: Variant, grid) -> Variant:
        """These sizes, with D_S multiplied by the number of tiles of the file's image size in `grid`."""
        tiles = tile_count(self.grid_for(grid), grid) or 1  # without whole tiles `load_weights` says what to do
        return dataclasses.replace(variant, tokens_mlp_dim=variant.tokens_mlp_dim * tiles)

    def form(self, **given) -> dict[str, Any]:
        """GELU form and pixel range for a new model: those given if not the defaults, else the file's if known."""
        known = {name: value for name in FORMS if (value := getattr(self.facts, name)) is not None}
        return FORMS | known | {name: value for name, value in given.items() if value != FORMS[name]}


def open_weights(source, variant: Variant | None = None) -> WeightFile:
    """Reads a source for `load_weights`, and raises as that does; a published name stands for one file per variant."""
    if isinstance(source, WeightFile):
        return source
    source, facts, grid = str(downloads.local(source)), None, None
    if source in published.NAMES:
        checkpoint = published.find(source, variant)
        source, facts, grid = str(published.download(checkpoint)), checkpoint.facts, checkpoint.grid
    elif not source.endswith(SUFFIXES):
        known = f"{', '.join(published.NAMES)}, a file that ends in {', '.join(SUFFIXES)}, or hf://owner/name/file"
        raise ValueError(f"weights={source!r} is not a known source: expected {known}.")
    path = Path(source)
    if path.suffix == ".keras":
        parts = plain_mixer(load_keras(path), f"load_weights from {path}", "Save {} to a file, and load that.")
        arrays = {name: np.array(weight) for name, weight in weights_of(parts).items()}
        return WeightFile(path, arrays, {name: name for name in arrays}, parts.facts, parts.grid)
    arrays = read_arrays(path)
    try:
        named, origins, of_layout, notes = own_names(arrays)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return WeightFile(path, named, origins, facts or of_layout, grid, notes)


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
            not fit the model: lists those that are missing, unexpected or of the wrong shape. The model is unchanged.

    Source: appendix C of arXiv 2105.01601 for the rule for another image size.

    Example:
        >>> model = keras_mixer.load_weights(keras_mixer.MixerB16(), "Mixer-B_16.npz")  # doctest: +SKIP
    """
    if head not in ("auto", "load"):
        raise ValueError(f'head must be "auto" or "load", got {head!r}.')
    if method not in (None, *METHODS):
        raise ValueError(f"method must be None or one of {', '.join(METHODS)}, got {method!r}.")
    parts = plain_mixer(model, "load_weights")
    file, weights = open_weights(source, parts.variant()), weights_of(parts)
    for name in FORMS:
        found, own = getattr(file.facts, name), getattr(parts.facts, name)
        if found not in (None, own):
            differs = f"{file.path} belongs to a model with {name}={found}, but this one has {name}={own}."
            raise ValueError(f"{differs} Build it with weights= and without {name}, which the file then gives.")
    if fixed := [name for name, weight in weights.items() if not isinstance(weight, keras.Variable)]:
        raise ValueError(f"{fixed[0]} of the model has a LoRA update. Load weights before enable_lora.")
    shapes, lines = {name: tuple(weight.shape) for name, weight in weights.items()}, list(file.notes)
    arrays = {name: array for name, array in file.arrays.items() if name in shapes or name not in HEAD}
    try:
        grids = file.grid_for(parts.grid), parts.grid
        _check_fit(arrays, file.origins, shapes, grids)
        if parts.head is not None and (found := _other_head(file, parts.head, head)):
            lines.append(f"The file has {found}, the model {parts.head.units} classes: the head starts at zero.")
            arrays = {name: array for name, array in arrays.items() if name not in HEAD}
        adapt(arrays, shapes, grids, method, lines.append)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from error
    for name, weight in weights.items():
        weight.assign(arrays[name] if name in arrays else np.zeros(weight.shape))
    if file.facts.exact_gelu and file.facts.pixel_range is None:
        lines.append(TIMM.format(list(parts.stem.pixel_range)))
    for line in lines:
        (log or LOG.warning)(line)
    if "head/bias" in arrays and isinstance(parts.head, ClassifierHead) and parts.head.class_names is None:
        for name in ClassifierHead.facts:
            setattr(parts.head, name, getattr(file.facts, name) or getattr(parts.head, name))
    return model


def _other_head(file, layer, head) -> str | None:
    """What the file has in place of the model's head; None for a head to load. ValueError if it must be loaded."""
    count = file.arrays["head/kernel"].shape[1] if "head/kernel" in file.arrays else 0
    same = count == layer.units
    if same and (head == "load" or same_classes(file.facts.class_names, getattr(layer, "class_names", None))):
        return None
    found = f"{count}{' other' * same} classes" if count else "no head"
    if head == "load":
        raise ValueError(f"the head does not fit: {found} in the file, {layer.units} classes in the model.")
    return found


def _check_fit(arrays, origins, shapes, grids):
    """Raises ValueError unless all arrays are finite and of the model's shapes, but for its `grids` (file, model)."""
    optional = () if set(HEAD) & set(arrays) else HEAD
    expected = {name: _expected_shape(name, shapes[name], arrays, grids) for name in shapes}
    problems = {
        "missing": [name for name in shapes if name not in arrays and name not in optional],
        "unexpected": [origins[name] for name in arrays if name not in shapes],
        "of the wrong shape": [
            f"{origins[name]} (expected {expected[name]}, found {array.shape})"
            for name, array in arrays.items()
            if name in shapes and array.shape != expected[name]
        ],
    }
    if any(problems.values()):
        lists = (f"{len(names)} {kind}: {', '.join(names[:20])}" for kind, names in problems.items() if names)
        raise ValueError(f"arrays do not fit the model; {'; '.join(lists)}.")
    for name, array in arrays.items():
        if array.dtype not in FLOATS or not np.isfinite(array).all():
            raise ValueError(f"array {origins[name]!r} has values that are not finite floating-point numbers.")


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

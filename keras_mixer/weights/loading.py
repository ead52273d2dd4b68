"""The only loader of weights: `load_weights(model, source)`. A model changes only if all weights fit."""

import dataclasses
import logging
import math
from pathlib import Path

import keras
import numpy as np

from keras_mixer.anatomy import Anatomy, plain_mixer
from keras_mixer.mixer_model import ClassifierHead, ModelFacts
from keras_mixer.variants import Variant
from keras_mixer.weights import downloads, published
from keras_mixer.weights.fitting import check_fit, choose_head
from keras_mixer.weights.layouts import own_names, weights_of
from keras_mixer.weights.readers import load_keras, read_arrays
from keras_mixer.weights.resolution import METHODS, adapt, widened_dim

LOG = logging.getLogger("keras_mixer")
PUBLISHED, WEIGHTS_H5 = "published", ".weights.h5"
SUFFIXES = (".npz", ".safetensors", ".keras", WEIGHTS_H5)
TOKENS = "mixer_block_0/token_mixing/dense_1/bias"  # one value per token
FORMS = {"exact_gelu": False, "pixel_range": (-1.0, 1.0)}  # arguments of `Mixer` that belong to weights
TIMM = (
    "timm layout: its models compute the exact (erf) GELU. Pixels are scaled to {} at the stem; a model trained with "
    "another mean and std needs pixel_range=(-mean / std, (1 - mean) / std), which is (0, 1) for miil."
)


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
        if self.grid is not None:
            return self.grid
        tokens = self.arrays[TOKENS].size
        if target_grid is not None and tokens == math.prod(target_grid):
            return target_grid
        side = math.isqrt(tokens)  # only our own files contain the grid; the published models saw square images
        if side * side == tokens > 0:
            return side, side
        raise ValueError(f"The {tokens} tokens of {self.path} are not a square grid. Load them at their image size.")

    def widened(self, variant: Variant, grid) -> Variant:
        """These sizes, with D_S multiplied by the number of tiles of the file's image size in `grid`."""
        if TOKENS not in self.arrays:  # damaged: `load_weights` says what is missing
            return variant
        dim = widened_dim(variant.tokens_mlp_dim, self.grid_for(grid), grid)
        return dataclasses.replace(variant, tokens_mlp_dim=dim)

    def form(self, exact_gelu=False, pixel_range=(-1.0, 1.0)):
        """GELU form and pixel range of a model to build for this file: the file's, or if unknown the arguments."""
        given = {"exact_gelu": exact_gelu, "pixel_range": tuple(map(float, pixel_range))}
        self.check_form({name: value for name, value in given.items() if value != FORMS[name]})
        known = {name: getattr(self.facts, name) for name in given}
        return tuple(given[name] if value is None else value for name, value in known.items())

    def check_form(self, wanted):
        """Raises ValueError if the GELU form or the pixel range, by name, is not that of the file."""
        for name, value in wanted.items():
            if getattr(self.facts, name) not in (None, value):
                raise ValueError(
                    f"{self.path} belongs to a model with {name}={getattr(self.facts, name)}, but this one has "
                    f"{name}={value}. Build it with weights= and without {name}: both forms are taken from the file."
                )


def kind_of(source) -> str:
    """`PUBLISHED` for the name of a published checkpoint, else the suffix of the file; ValueError if it is neither."""
    if str(source) in published.names():
        return PUBLISHED
    named = isinstance(source, str | Path)
    kind = next((suffix for suffix in SUFFIXES if named and Path(source).name.endswith(suffix)), None)
    if kind is None:
        raise ValueError(
            f"weights={str(source)!r} is not a known source: expected a published checkpoint "
            f"({', '.join(published.names())}), a file that ends in {', '.join(SUFFIXES)}, or hf://owner/name/file."
        )
    return kind


def open_weights(source, variant: Variant | None = None) -> WeightFile:
    """Reads a source for `load_weights`, and raises as that does; a published name stands for one file per variant."""
    source = downloads.local(source)
    kind, path, facts, grid = kind_of(source), Path(source), None, None
    if kind == ".keras":
        parts = plain_mixer(load_keras(path), f"load_weights from {path}", "Save {} to a file, and load that.")
        arrays = {name: np.array(weight) for name, weight in weights_of(parts).items()}
        return WeightFile(path, arrays, {name: name for name in arrays}, parts.facts, parts.grid)
    if kind == PUBLISHED:
        checkpoint = published.find(str(source), variant)
        path, facts, grid = published.download(checkpoint), checkpoint.facts, checkpoint.grid
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
        head: "auto" loads the head if the number of classes matches and otherwise starts it at zero and logs that;
            "load" makes a mismatch an error.
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
    file = source if isinstance(source, WeightFile) else open_weights(source, parts.variant())
    file.check_form({name: getattr(parts.facts, name) for name in FORMS})
    lines: list[str] = list(file.notes)
    arrays = _fitting_arrays(parts, file, head, method, lines)
    for name, weight in weights_of(parts).items():
        weight.assign(arrays[name] if name in arrays else np.zeros(weight.shape))
    if file.facts.exact_gelu and file.facts.pixel_range is None:
        lines.append(TIMM.format(list(parts.stem.pixel_range)))
    for line in lines:
        (log or LOG.warning)(line)
    if "head/bias" in arrays and isinstance(parts.head, ClassifierHead) and parts.head.class_names is None:
        for name in ClassifierHead.facts:
            setattr(parts.head, name, getattr(file.facts, name) or getattr(parts.head, name))
    return model


def _fitting_arrays(parts: Anatomy, file: WeightFile, head, method, lines):
    """The arrays of a file, adapted to a model; without a head if that of the model starts at zero."""
    weights = weights_of(parts)
    if fixed := [name for name, weight in weights.items() if not isinstance(weight, keras.Variable)]:
        raise ValueError(f"{fixed[0]} of the model has a LoRA update. Load weights before enable_lora.")
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    try:
        arrays = dict(choose_head(file.arrays, shapes, head, lines.append))
        grids = file.grid_for(parts.grid) if TOKENS in arrays else parts.grid, parts.grid
        check_fit(arrays, file.origins, shapes, grids)
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise ValueError(f"array {file.origins[name]!r} contains values that are not finite.")
        adapt(arrays, shapes, grids, method, lines.append)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from error
    return arrays

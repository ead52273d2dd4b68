"""The only loader of weights: `load_weights(model, source)`. A model changes only if all weights fit."""

import dataclasses
import logging
import math
from pathlib import Path

import numpy as np

from keras_mixer.mixer_model import blocks_of, grid_of
from keras_mixer.variants import Variant
from keras_mixer.weights import hub, registry
from keras_mixer.weights.archives import Entry, open_arrays
from keras_mixer.weights.fitting import adapt, check, choose_head, variant_of
from keras_mixer.weights.keras_files import load_keras, load_weights_h5
from keras_mixer.weights.layouts import is_timm, own_names
from keras_mixer.weights.resolution import METHODS, widened_dim

LOG = logging.getLogger("keras_mixer")
PUBLISHED, WEIGHTS_H5 = "published", ".weights.h5"
SUFFIXES = (".npz", ".safetensors", ".keras", WEIGHTS_H5)
TIMM = (  # no weight file contains its normalization
    "timm layout: the exact (erf) GELU is set, as in timm. Pixels are scaled to [-1, 1], which is timm's mean 0.5 and "
    "std 0.5; for a model trained with another mean and std set model.pixel_range = (-mean / std, (1 - mean) / std), "
    "which is (0, 1) for miil."
)


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """The weights of a Mixer, not yet read.

    Attributes:
        path: of the file, for messages.
        entries: its arrays under our names.
        grid: `(g_h, g_w)` rows and columns of its tokens, or None if the file does not contain them.
        timm: whether it has timm's layout.
        exact_gelu: whether its model computes the erf form of GELU.
        pixel_range: values of a black and a white pixel at the stem of its model, or None if unknown.
        class_names: one per output of its head, or None if unknown.
        trained_on: the data of these classes, or None if unknown.
    """

    path: Path
    entries: dict[str, Entry]
    grid: tuple[int, int] | None = None
    timm: bool = False
    exact_gelu: bool = False
    pixel_range: tuple[float, float] | None = None
    class_names: tuple[str, ...] | None = None
    trained_on: str | None = None

    @classmethod
    def of(cls, model, path) -> "WeightFile":
        """The weights of a model in memory; ValueError if it is not a Mixer."""
        if not blocks_of(model):
            raise ValueError(f"{path} does not contain a Mixer of this package.")
        return cls(
            Path(path),
            {weight.path: Entry(weight.path, tuple(weight.shape), weight.numpy) for weight in model.weights},
            grid_of(model),
            exact_gelu=any(block.exact_gelu for block in blocks_of(model)),
            pixel_range=getattr(model, "pixel_range", None),
            class_names=getattr(model, "class_names", None),
            trained_on=getattr(model, "trained_on", None),
        )

    def variant(self) -> Variant:
        """The sizes of the model in the file; ValueError if it does not contain a Mixer."""
        return variant_of({name: entry.shape for name, entry in self.entries.items()})

    def grid_for(self, target_grid=None) -> tuple[int, int]:
        """The grid of the file; if it does not contain one, `target_grid` if the token count fits, else a square."""
        if self.grid is not None:
            return self.grid
        tokens = self.entries["mixer_block_0/token_mixing/dense_1/bias"].shape[0]
        if target_grid is not None and tokens == math.prod(target_grid):
            return target_grid
        side = math.isqrt(tokens)  # only our own files contain the grid; the published models saw square images
        if side * side != tokens:
            raise ValueError(f"{tokens} tokens do not form a square grid; pass source_grid=(rows, columns).")
        return side, side


def kind_of(source) -> str:
    """What a source is: "published" for the name of a published checkpoint, else the suffix of the file.

    Raises:
        ValueError: it is neither.
    """
    if str(source) in registry.names():
        return PUBLISHED
    kind = next((suffix for suffix in SUFFIXES if Path(source).name.endswith(suffix)), None)
    if kind is None:
        raise ValueError(
            f"weights={str(source)!r} is not a known source: expected a published checkpoint "
            f"({', '.join(registry.names())}), a file that ends in .npz, .safetensors, .keras or .weights.h5, or "
            "hf://owner/name/file."
        )
    return kind


def open_weights(source, variant: Variant | None = None, source_grid=None) -> WeightFile:
    """Opens a published checkpoint or a file other than `.weights.h5`. The data of the arrays are not read yet.

    Args:
        source: as for `load_weights`.
        variant: sizes of the model to fill; a published name stands for one file per variant.
        source_grid: rows and columns of the file's tokens, if it does not contain them.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it is not a weight file, or a `.weights.h5` file, which does not say what model it belongs to.
    """
    source = hub.local(source)
    kind, path = kind_of(source), Path(source)
    if kind == PUBLISHED:
        published = registry.find(str(source), variant)
        path = registry.download(published)
        entries = own_names(open_arrays(path))
        return WeightFile(
            path,
            entries,
            published.grid,
            exact_gelu=published.exact_gelu,
            pixel_range=published.pixel_range,
            class_names=published.class_names,
            trained_on=published.data,
        )
    if kind == WEIGHTS_H5:
        raise ValueError(f"{path} does not say what model it belongs to; load it into that model.")
    if kind == ".keras":
        return WeightFile.of(load_keras(path), path)
    entries = open_arrays(path)
    try:
        timm = is_timm(entries)
        return WeightFile(path, own_names(entries), source_grid, timm, exact_gelu=timm)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def open_widened(source, variant: Variant, grid) -> "tuple[WeightFile | str, Variant]":
    """Opens weights for a model with these sizes and token grid, and widens D_S as the paper's rule needs.

    Returns:
        What `load_weights` takes, and the sizes of the model to build: `variant`, with D_S multiplied by the number of
        tiles of the file's image size in `grid`. A `.weights.h5` file stays closed, since its model cannot be inferred.

    Raises:
        FileNotFoundError, ValueError: as `open_weights`.
    """
    source = hub.local(source)
    if kind_of(source) == WEIGHTS_H5:
        return source, variant
    file = open_weights(source, variant)
    widened = widened_dim(variant.tokens_mlp_dim, file.grid_for(grid), grid)
    return file, dataclasses.replace(variant, tokens_mlp_dim=widened)


def load_weights(model, source, *, head="auto", method=None, source_grid=None, log=None):
    """Loads weights into a model, all or nothing.

    Args:
        model: a Mixer of this package.
        source: the name of a published checkpoint ("imagenet1k", "imagenet21k", "sam", "gsam", "miil", "miil_in21k");
            an `.npz` file in one of the two official layouts or with timm's names; a timm `.safetensors` file; a
            `.keras` or `.weights.h5` file of this package; `hf://owner/name[@revision][/file]` for such a file on the
            Hugging Face Hub (extra `hub`).
        head: "auto" loads the head if the number of classes matches and otherwise starts it at zero and logs that;
            "load" makes a mismatch an error.
        method: for a model with another image size than the file. None or "block_diagonal" applies the paper's rule,
            which needs whole tiles and a model with D_S times their number; "bilinear" resizes the token weights to
            any grid and keeps D_S (not from the paper).
        source_grid: rows and columns of the file's tokens, if it does not contain them and they are not a square.
        log: called with each line about an adaptation, such as a head that starts at zero. None logs each line as a
            warning of the logger "keras_mixer", which Python prints by default.

    Returns:
        The same model.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, or its arrays do not fit the model: lists those that are missing, unexpected or
            of the wrong shape. The model is unchanged.

    Source: ours; the rule for another image size is from appendix C of arXiv 2105.01601.

    Example:
        >>> model = keras_mixer.load_weights(keras_mixer.MixerB16(), "Mixer-B_16.npz")  # doctest: +SKIP
    """
    if head not in ("auto", "load"):
        raise ValueError(f'head must be "auto" or "load", got {head!r}.')
    if method not in (None, *METHODS):
        raise ValueError(f"method must be None or one of {', '.join(METHODS)}, got {method!r}.")
    log = log or LOG.warning
    source = hub.local(source)
    is_open = isinstance(source, WeightFile)
    if not is_open and kind_of(source) == WEIGHTS_H5:
        return load_weights_h5(model, Path(source))
    shapes = {weight.path: tuple(weight.shape) for weight in model.weights}
    target_grid = grid_of(model)
    file = source if is_open else open_weights(source, variant_of(shapes), source_grid)
    try:
        entries = choose_head(file.entries, shapes, head, log)
        grid = file.grid_for(target_grid) if "mixer_block_0/token_mixing/dense_1/bias" in entries else target_grid
        check(entries, shapes, grid, target_grid, method)
        arrays = {name: _finite(entry) for name, entry in entries.items()}
    except ValueError as error:
        raise ValueError(f"{file.path}: {str(error).removeprefix(f'{file.path}: ')}") from error
    adapt(arrays, shapes, grid, target_grid, method, log)
    for weight in model.weights:
        weight.assign(arrays.pop(weight.path) if weight.path in arrays else np.zeros(weight.shape))
    blocks = blocks_of(model)
    if file.timm:
        log(TIMM)
    elif file.exact_gelu and not all(block.exact_gelu for block in blocks):
        log("The exact (erf) GELU is set, as in the model of the file.")
    for block in blocks if file.exact_gelu else ():
        block.use_exact_gelu()
    if file.pixel_range not in (None, getattr(model, "pixel_range", None)):
        model.pixel_range = file.pixel_range
        log(f"The pixel range {file.pixel_range} at the stem is set, as in the model of the file.")
    if "head/bias" in entries and getattr(model, "class_names", None) is None:
        model.class_names, model.trained_on = file.class_names, file.trained_on
    return model


def _finite(entry):
    array = entry.read()
    if not np.isfinite(array).all():
        raise ValueError(f"array {entry.origin!r} contains values that are not finite.")
    return array

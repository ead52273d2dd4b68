"""One door for all weight files: `load_weights(model, source)`; a model changes only when the whole file fits."""

import dataclasses
import logging
import math
from pathlib import Path

import h5py
import keras
import numpy as np

from keras_mixer.layers import MixerBlock
from keras_mixer.mixer_model import grid_of
from keras_mixer.variants import Variant
from keras_mixer.weights import registry
from keras_mixer.weights.archives import Entry, open_arrays
from keras_mixer.weights.fitting import adapt, check, choose_head, variant_of
from keras_mixer.weights.hdf5 import check_hdf5, check_keras
from keras_mixer.weights.layouts import is_timm, own_names
from keras_mixer.weights.resolution import METHODS, widened_dim

LOG = logging.getLogger("keras_mixer")
TIMM = (  # its normalisation is in no weight file
    "timm's layout: the exact (erf) GELU is set, as timm computes. Pixels are scaled to [-1, 1], which is timm's "
    "mean 0.5 and std 0.5; for a model trained with another mean and std set model.pixel_range = "
    "(-mean / std, (1 - mean) / std), which is (0, 1) for miil."
)


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """An opened file.

    Attributes:
        path: of the file.
        entries: its arrays under our names.
        grid: `(g_h, g_w)` rows and columns of tokens that it was made for, or None where it does not say.
        timm: whether it has timm's layout.
        exact_gelu: whether its model computes the erf form of GELU.
        pixel_range: values of a black and a white pixel at the stem of its model, or None where it does not say.
    """

    path: Path
    entries: dict[str, Entry]
    grid: tuple[int, int] | None = None
    timm: bool = False
    exact_gelu: bool = False
    pixel_range: tuple[float, float] | None = None

    def variant(self) -> Variant:
        """The sizes of the model in the file; ValueError if it holds no Mixer."""
        return variant_of({name: entry.shape for name, entry in self.entries.items()})

    def grid_for(self, target_grid=None) -> tuple[int, int]:
        """The grid of the file; one that does not say is taken for `target_grid`, or else for a square."""
        if self.grid is not None:
            return self.grid
        tokens = self.entries["mixer_block_0/token_mixing/dense_1/bias"].shape[0]
        if target_grid is not None and tokens == math.prod(target_grid):
            return target_grid
        side = math.isqrt(tokens)  # no layout but ours holds the grid, and the published models saw square images
        if side * side != tokens:
            raise ValueError(f"{tokens} tokens are mixed, which is no square grid; pass source_grid=(rows, columns).")
        return side, side

    def widened(self, variant: Variant, target_grid) -> Variant:
        """The sizes of a model for `target_grid` that the paper's rule can fill from this file."""
        tokens_mlp_dim = widened_dim(variant.tokens_mlp_dim, self.grid_for(target_grid), target_grid)
        return dataclasses.replace(variant, tokens_mlp_dim=tokens_mlp_dim)


def open_weights(source, variant: Variant | None = None, source_grid=None) -> WeightFile:
    """Opens a published checkpoint or a file that is no `.weights.h5`. Data of arrays are not read yet.

    Args:
        source: as for `load_weights`.
        variant: sizes of the model to be filled; which published file a name means depends on them.
        source_grid: rows and columns of tokens of the file, where it does not say itself.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no weight file.
    """
    name, path = str(source), Path(source)
    if name in registry.names():
        published = registry.find(name, variant)
        path = registry.download(published)
        return WeightFile(path, own_names(open_arrays(path)), published.grid)
    if path.suffix not in (".npz", ".safetensors", ".keras"):
        raise ValueError(
            f"weights={name!r} is no known source: expected a published checkpoint ({', '.join(registry.names())}) or "
            "a file that ends in .npz, .safetensors, .keras or .weights.h5."
        )
    if path.suffix == ".keras":
        return _open_keras(path)
    entries = open_arrays(path)
    try:
        timm = is_timm(entries)
        return WeightFile(path, own_names(entries), source_grid, timm, exact_gelu=timm)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def load_weights(model, source, *, head="auto", method=None, source_grid=None, log=None):
    """Loads weights into a model, all or nothing.

    Args:
        model: a Mixer of this package.
        source: the name of a published checkpoint ("imagenet1k", "imagenet21k", "sam"); an `.npz` file in one of the
            two official layouts or with timm's names; a timm `.safetensors` file; a `.keras` or `.weights.h5` file of
            this package.
        head: "auto" loads the head where the number of classes agrees and otherwise starts it at zero, saying so;
            "load" makes that an error.
        method: for a model of another image size than the file's. None or "block_diagonal" applies the paper's rule,
            which needs whole tiles and a model with D_S times their number; "bilinear" stretches the token weights
            over any grid, D_S kept (not from the paper).
        source_grid: rows and columns of tokens of the file, where it does not say and they are no square.
        log: called with each line about what was adapted, such as a head that starts at zero. None makes each line a
            warning of the logger "keras_mixer", which Python prints unless told otherwise.

    Returns:
        The same model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or its arrays do not fit the model: lists what is missing, left over or of the
            wrong shape. The model is untouched.

    Source: ours; the rule for another image size is that of appendix C of arXiv 2105.01601.

    Example:
        >>> model = keras_mixer.load_weights(keras_mixer.MixerB16(), "Mixer-B_16.npz")  # doctest: +SKIP
    """
    if head not in ("auto", "load"):
        raise ValueError(f'head must be "auto" or "load", not {head!r}.')
    if method not in (None, *METHODS):
        raise ValueError(f"method must be None or one of {', '.join(METHODS)}, not {method!r}.")
    log = log or LOG.warning
    if str(source).endswith(".weights.h5"):
        return _load_own_h5(model, Path(source))
    shapes = {weight.path: tuple(weight.shape) for weight in model.weights}
    target_grid = grid_of(model)
    is_open = isinstance(source, WeightFile)
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
    blocks = [layer for layer in model.layers if isinstance(layer, MixerBlock)]
    if file.timm:
        log(TIMM)
    elif file.exact_gelu and not all(block.exact_gelu for block in blocks):
        log("The exact (erf) GELU is set, as in the model of the file.")
    for block in blocks if file.exact_gelu else ():
        block.use_exact_gelu()
    if file.pixel_range not in (None, getattr(model, "pixel_range", None)):
        model.pixel_range = file.pixel_range
        log(f"The pixel range {file.pixel_range} at the stem is set, as in the model of the file.")
    return model


def _finite(entry):
    array = entry.read()
    if not np.isfinite(array).all():
        raise ValueError(f"array {entry.origin!r} holds values that are not finite.")
    return array


def load_keras(path):
    """The Mixer in a `.keras` file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds no Mixer of this package.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no weights file {path}.")
    try:
        check_keras(path)
        model = keras.saving.load_model(path, compile=False, safe_mode=True)  # no code from the file
        model.get_layer("stem")
    except Exception as error:  # Keras raises whatever its zip, JSON or HDF5 reader does
        raise ValueError(f"{path} is no readable .keras file of a Mixer: {error}") from error
    return model


def _open_keras(path) -> WeightFile:
    model = load_keras(path)
    entries = {w.path: Entry(w.path, tuple(w.shape), w.numpy) for w in model.weights}
    exact_gelu = any(block.exact_gelu for block in model.layers if isinstance(block, MixerBlock))
    return WeightFile(
        path,
        entries,
        grid_of(model),
        exact_gelu=exact_gelu,
        pixel_range=getattr(model, "pixel_range", None),
    )


def _load_own_h5(model, path):
    """Through a copy: Keras changes weights one by one, and an error half way must not show in the model."""
    if not path.is_file():
        raise FileNotFoundError(f"There is no weights file {path}.")
    copy = keras.models.clone_model(model)
    try:
        check_hdf5(path)
        copy.load_weights(path)
        count = _count_weights(path)
    except Exception as error:  # Keras and h5py raise all sorts
        raise ValueError(f"{path} does not hold the weights of a model like this one: {error}") from error
    if count != len(model.weights):  # Keras passes over layers that the model lacks
        raise ValueError(
            f"{path} holds {count} arrays, the model has {len(model.weights)}: they are of different models."
        )
    for weight in copy.weights:
        if not np.isfinite(weight.numpy()).all():
            raise ValueError(f"{path}: array {weight.path!r} holds values that are not finite.")
    model.set_weights(copy.get_weights())
    return model


def _count_weights(path):
    """Arrays of a `.weights.h5` file without the states of random generators."""
    names: list[str] = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return sum("seed_generator" not in name for name in names)

"""Fits the arrays of a file to a model: head, stem and token mixing are adapted, all other shapes must match."""

import math
import re

import numpy as np

from keras_mixer.variants import Variant
from keras_mixer.weights.archives import Entry
from keras_mixer.weights.resolution import TokenMlp, resample, tiles, widen

HEAD = ("head/kernel", "head/bias")
TOKEN_MLP = ("dense_0/kernel", "dense_0/bias", "dense_1/kernel", "dense_1/bias")
LISTED = 20  # largest number of arrays that an error lists
Shapes = dict[str, tuple[int, ...]]


def variant_of(shapes: Shapes) -> Variant:
    """The sizes of a Mixer from the shapes of its weights.

    Raises:
        ValueError: they are not the weights of a Mixer.
    """
    try:
        patch_height, patch_width, _, hidden_dim = shapes["stem/kernel"]
        return Variant(
            patch_size=patch_height if patch_height == patch_width else (patch_height, patch_width),
            num_blocks=len({match[1] for name in shapes if (match := re.match(r"mixer_block_(\d+)/", name))}),
            hidden_dim=hidden_dim,
            tokens_mlp_dim=shapes["mixer_block_0/token_mixing/dense_0/bias"][0],
            channels_mlp_dim=shapes["mixer_block_0/channel_mixing/dense_0/bias"][0],
        )
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"These are not the weights of a Mixer (missing or malformed: {error}).") from error


def choose_head(entries: dict[str, Entry], shapes: Shapes, head, log) -> dict[str, Entry]:
    """Drops the head of the file if it does not fit the model, whose head then starts at zero.

    Raises:
        ValueError: `head` is "load" and the head does not fit.
    """
    given = {name: entries[name].shape for name in HEAD if name in entries}
    wanted = {name: shapes[name] for name in HEAD if name in shapes}
    if not wanted:
        return {name: entry for name, entry in entries.items() if name not in HEAD}
    if given == wanted or len(given) == 1:
        return entries  # it fits, or is damaged and reported with the rest
    hidden_dim, classes = wanted["head/kernel"]
    found = f"{given['head/kernel'][-1]} classes" if given and given["head/kernel"] else "no head"
    regular = not given or given == {"head/kernel": (hidden_dim, *given["head/bias"]), "head/bias": given["head/bias"]}
    if head == "load" or not regular:
        raise ValueError(f"the head does not fit: {found} in the file {given}, {classes} classes in the model.")
    log(f"The file has {found}, the model {classes} classes: the head starts at zero.")
    return {name: entry for name, entry in entries.items() if name not in HEAD}


def check(entries: dict[str, Entry], shapes: Shapes, source_grid, target_grid, method):
    """Checks that every array occurs exactly once and has the model's shape, or one that can be adapted.

    Raises:
        ValueError: lists the arrays that are missing, unexpected, or of the wrong shape (expected, found).
    """
    missing = [name for name in shapes if name not in entries and not (name in HEAD and not set(HEAD) & set(entries))]
    unexpected = [entry.origin for name, entry in entries.items() if name not in shapes]
    expected = {name: _expected(name, shapes, entries, source_grid, target_grid) for name in shapes}
    wrong = [
        f"{entry.origin} (expected {expected[name]}, found {entry.shape})"
        for name, entry in entries.items()
        if name in shapes and entry.shape != expected[name]
    ]
    problems = {"missing": missing, "unexpected": unexpected, "of the wrong shape": wrong}
    if any(problems.values()):
        lists = [f"{kind}: {', '.join(names[:LISTED])}{_more(names)}" for kind, names in problems.items() if names]
        raise ValueError(f"arrays do not fit the model; {'; '.join(lists)}.")
    if source_grid != target_grid:
        _check_grids(entries, shapes, source_grid, target_grid, method)


def _expected(name, shapes, entries, source_grid, target_grid):
    """The shape that an array of the file must have; only the numbers of channels and tokens may be the file's own."""
    shape = shapes[name]
    if name == "stem/kernel" and len(entries.get(name, _NOTHING).shape) == 4:
        return (*shape[:2], entries[name].shape[2] or shape[2], shape[3])
    if source_grid != target_grid and (match := re.fullmatch(r"mixer_block_\d+/token_mixing/(.*)", name)):
        tokens = source_grid[0] * source_grid[1]
        hidden = entries.get("mixer_block_0/token_mixing/dense_0/bias", _NOTHING).shape
        sizes = {"kernel": (tokens, *hidden), "bias": hidden} if "dense_0" in match[1] else None
        sizes = sizes or {"kernel": (*hidden, tokens), "bias": (tokens,)}
        return sizes[match[1].split("/")[1]]
    return shape


_NOTHING = Entry("", (), lambda: np.empty(()))


def _more(names):
    return f" and {len(names) - LISTED} more" if len(names) > LISTED else ""


def _check_grids(entries, shapes, source_grid, target_grid, method):
    hidden = entries["mixer_block_0/token_mixing/dense_0/bias"].shape[0]
    wanted = shapes["mixer_block_0/token_mixing/dense_0/bias"][0]
    patch = shapes["stem/kernel"][:2]
    counts = tiles(source_grid, target_grid)
    needed = hidden if method == "bilinear" else hidden * math.prod(counts or (0,))
    if needed == wanted:
        return
    (height, width), (target_height, target_width) = (
        (grid[0] * patch[0], grid[1] * patch[1]) for grid in (source_grid, target_grid)
    )
    rule = (
        f"the paper's rule needs a model with tokens_mlp_dim={hidden * math.prod(counts)} instead of {wanted} "
        "(change_resolution builds it)"
        if counts
        else f"the paper's rule works for heights of {height}, {2 * height}, {3 * height}, ... px and widths of "
        f"{width}, {2 * width}, {3 * width}, ... px"
    )
    raise ValueError(
        f"the file is for images of {height} x {width} px, the model for {target_height} x {target_width} px: {rule}; "
        f'method="bilinear" works for any size with tokens_mlp_dim={hidden}, but is not from the paper.'
    )


def adapt(arrays: dict[str, np.ndarray], shapes: Shapes, source_grid, target_grid, method, log):
    """Adapts the arrays of the file to the model, in place, and logs each change."""
    stem = arrays["stem/kernel"]
    if stem.shape != shapes["stem/kernel"]:
        channels = shapes["stem/kernel"][2]
        log(f"The stem is adapted from {stem.shape[2]} to {channels} channels.")
        arrays["stem/kernel"] = adapt_channels(stem, channels)
    if source_grid == target_grid:
        return
    rule = resample if method == "bilinear" else widen
    how = "resized bilinearly (not from the paper)" if rule is resample else "widened block by block (the paper's rule)"
    log(f"Token mixing is {how}: from {source_grid} to {target_grid} tokens.")
    for prefix in {name.rsplit("/", 2)[0] for name in arrays if "/token_mixing/" in name}:
        mlp = rule(TokenMlp(*(arrays[f"{prefix}/{part}"] for part in TOKEN_MLP)), source_grid, target_grid)
        changed = (mlp.kernel_0, mlp.bias_0, mlp.kernel_1, mlp.bias_1)
        arrays.update({f"{prefix}/{part}": array for part, array in zip(TOKEN_MLP, changed, strict=True)})


def adapt_channels(kernel, channels):
    """`(h, w, c, C) -> (h, w, channels, C)`: the sum for one channel, else the old channels repeated and rescaled.

    A grayscale image then gives the same tokens as its RGB version with three equal channels.
    """
    old = kernel.shape[2]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % old] * np.asarray(old / channels, kernel.dtype)

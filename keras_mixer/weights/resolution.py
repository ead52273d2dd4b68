"""Another image size: the paper's block-diagonal widening of token mixing, or bilinear resampling.

Arrays of one block, S tokens, D_S hidden units: kernel_0 (S, D_S), bias_0 (D_S,), kernel_1 (D_S, S), bias_1 (S,).
"""

import dataclasses
import math

import keras
import numpy as np

from keras_mixer.anatomy import Anatomy
from keras_mixer.mixer_model import MixerModel
from keras_mixer.variants import Variant, token_grid
from keras_mixer.weights.layouts import HIDDEN, weights_of

METHODS = ("block_diagonal", "bilinear")
PARTS = ("dense_0/kernel", "dense_0/bias", "dense_1/kernel", "dense_1/bias")  # of a token-mixing MLP


def change_resolution(model, input_shape, method="block_diagonal"):
    """A new model for another image size, initialized from the weights of the old one.

    Stem, channel-mixing MLPs, norms and head are copied. Token mixing follows `method`:

    "block_diagonal", the paper's rule: the new image consists of K_h x K_w tiles of the old size, and a copy of the old
    weights mixes each tile separately. D_S is multiplied by K_h K_w. The logits of the new model are the mean of the
    old model's logits over the tiles, until training connects them.

    "bilinear", not from the paper: the token weights are resized to the new grid like images, for any size. D_S stays,
    so it also costs less for whole multiples.

    Args:
        model: a Mixer of this package, with layers added to it that fit both sizes, or none; not modified.
        input_shape: `(height, width, channels)` of the new images in pixels. Another number of channels adapts the
            stem: summed for one channel, repeated and rescaled for more.
        method: "block_diagonal" or "bilinear".

    Returns:
        A new `keras.Model`.

    Raises:
        ValueError: the patch size does not divide the image size, or the image does not consist of whole tiles; the
            message names sizes that work.

    Source: appendix C of arXiv 2105.01601 for "block_diagonal", extended to unequal K_h and K_w.

    Example:
        >>> small = keras_mixer.MixerS32(classes=10)
        >>> keras_mixer.change_resolution(small, (448, 224, 3)).input_shape
        (None, 448, 224, 3)
    """
    mixer = Anatomy(model)
    grids = mixer.grid, token_grid(input_shape[:2], mixer.stem.patch_size)
    variant = widened(mixer.variant(), *grids) if method == "block_diagonal" else mixer.variant()
    new = rebuild(model, input_shape=tuple(map(int, input_shape)), tokens_mlp_dim=variant.tokens_mlp_dim)
    new_mixer = Anatomy(new)
    arrays = {name: np.array(weight) for name, weight in weights_of(mixer).items()}
    weights = weights_of(new_mixer)
    adapt(arrays, {name: tuple(weight.shape) for name, weight in weights.items()}, grids, method, lambda line: None)
    for name, weight in weights.items():
        weight.assign(arrays[name])
    for layer, new_layer in zip(mixer.layers, new_mixer.layers, strict=True):
        if layer not in mixer.body and getattr(layer, "weights", None):
            new_layer.set_weights(layer.get_weights())
    return new


def rebuild(model, *, precision=None, input_shape=None, **options):
    """A copy of a Mixer without its weights; `options` are arguments of its blocks, `precision` is that of its body."""
    mixer = Anatomy(model)
    image = keras.Input(input_shape or model.input_shape[1:], dtype=model.inputs[0].dtype, name="image")
    grid, channels = token_grid(image.shape[1:3], mixer.stem.patch_size), mixer.stem.hidden_dim
    changes = dict.fromkeys(mixer.blocks, options) | {mixer.tokens: {"target_shape": (grid[0] * grid[1], channels)}}
    if mixer.after and isinstance(mixer.after[0], keras.layers.Reshape):
        changes[mixer.after[0]] = {"target_shape": (*grid, channels)}
    layers = []
    for layer in mixer.layers:
        config = layer.get_config() | changes.get(layer, {})
        if precision is not None and isinstance(layer, keras.layers.Layer):
            config["dtype"] = precision if layer in mixer.body else "float32"
        layers.append(type(layer).from_config(config))
    return model_like(model, image, mixer.apply(image, layers)[-1], trainable=model.trainable)


def model_like(model, image, outputs, **options):
    """A model of a graph, with the name of another, and a `MixerModel` if that is one."""
    return (MixerModel if isinstance(model, MixerModel) else keras.Model)(image, outputs, name=model.name, **options)


def adapt(arrays, shapes, grids, method, log):
    """Changes weights by our names, in place, to `shapes` of a model with the second of two grids; logs each change.

    ValueError if the new model is too wide or too narrow for the method.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    stem, channels = arrays["stem/kernel"], shapes["stem/kernel"][2]
    if stem.shape[2] != channels:
        log(f"The stem is adapted from {stem.shape[2]} to {channels} channels.")
        arrays["stem/kernel"] = adapt_channels(stem, channels)
    if grids[0] == grids[1]:
        return
    hidden, (wanted,) = len(arrays[HIDDEN]), shapes[HIDDEN]
    rule, how, needed = widen, "widened block by block (the paper's rule)", hidden * tile_count(*grids)
    if method == "bilinear":
        rule, how, needed = resample, "resized bilinearly (not from the paper)", hidden
    if wanted != needed:
        old, new = (" x ".join(map(str, np.multiply(grid, shapes["stem/kernel"][:2]))) for grid in grids)
        raise ValueError(
            f"the weights are for images of {old} px, the model for {new} px with tokens_mlp_dim={wanted}: the paper's "
            f"rule needs whole tiles of {old} px, and tokens_mlp_dim={hidden} times their number (change_resolution "
            f'builds it); method="bilinear", not from the paper, works for any size with tokens_mlp_dim={hidden}.'
        )
    log(f"Token mixing is {how}: from {grids[0]} to {grids[1]} tokens.")
    for prefix in {name.rsplit("/", 2)[0] for name in arrays if "/token_mixing/" in name}:
        names = [f"{prefix}/{part}" for part in PARTS]
        arrays.update(zip(names, rule([arrays[name] for name in names], *grids), strict=True))


def adapt_channels(kernel, channels):
    """`(h, w, c, C) -> (h, w, channels, C)`: the channels in turn, scaled so that a gray image gives similar tokens."""
    old = kernel.shape[2]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % old] * np.asarray(old / channels, kernel.dtype)


def tile_count(source_grid, target_grid) -> int:
    """The number of source grids that tile the target, K_h K_w; 0 unless both sides are multiples."""
    counts, rests = np.divmod(target_grid, source_grid)
    return 0 if rests.any() else math.prod(counts.tolist())


def widened(variant: Variant, source_grid, target_grid) -> Variant:
    """The sizes with D_S multiplied by the number of tiles; without whole tiles, unchanged, and `adapt` raises."""
    tiles = tile_count(source_grid, target_grid) or 1
    return dataclasses.replace(variant, tokens_mlp_dim=variant.tokens_mlp_dim * tiles)


def widen(mlp, source_grid, target_grid):
    """The paper's rule: each of n = K_h K_w tiles has its own copy of the MLP, so `S -> n S` and `D_S -> n D_S`.

    The paper states it for tokens ordered tile by tile; models order them row by row over the whole image.
    """
    kernel_0, bias_0, kernel_1, bias_1 = mlp
    (height, width), count = source_grid, tile_count(source_grid, target_grid)
    rows = np.arange(count * height * width)  # of tokens, row by row over the whole image
    rows = rows.reshape(-1, height, target_grid[1] // width, width)  # (tile row, row, tile column, column)
    order = np.argsort(rows.transpose(0, 2, 1, 3), axis=None)  # the place of each of them, tile by tile
    blocks = np.eye(count, dtype=kernel_0.dtype)
    wide_0, wide_1 = np.kron(blocks, kernel_0)[order], np.kron(blocks, kernel_1)[:, order]  # (n S, n D_S), (n D_S, n S)
    return wide_0, np.tile(bias_0, count), wide_1, np.tile(bias_1, count)[order]


def resample(mlp, source_grid, target_grid):
    """Resizes the weights like images; hidden units sum over more tokens, and keep their scale by smaller weights."""
    kernel_0, bias_0, kernel_1, bias_1 = mlp
    stretch = np.kron(*(_interpolation(*sides) for sides in zip(source_grid, target_grid, strict=True)))  # (S', S)
    stretch = stretch.astype(kernel_0.dtype)
    return stretch @ kernel_0 * (len(kernel_0) / len(stretch)), bias_0, kernel_1 @ stretch.T, stretch @ bias_1


def _interpolation(source, target):
    """`(target, source)`: linear interpolation between cell centers, border repeated; rows sum to 1."""
    centers = (np.arange(target) + 0.5) * source / target - 0.5
    return np.stack([np.interp(centers, np.arange(source), unit) for unit in np.eye(source)], axis=1)

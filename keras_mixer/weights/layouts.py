"""Names of weights: those of this package, of the two official layouts, of timm and of Keras's `.weights.h5` files.

Linen is the layout of the authors' current code; pre-linen is older, with other names, MLP biases in one scope and axes
of length 1. Kernels of both have our orientation. Those of timm are transposed, as in PyTorch.

Source: vit_jax and big_vision (`models/mlp_mixer.py`, its loader), timm (`models/mlp_mixer.py`, its checkpoint filter).
"""

import operator
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mixer.anatomy import Anatomy, plain_mixer
from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.mixer_model import ModelFacts

OFFICIAL = ModelFacts(pixel_range=(-1.0, 1.0), exact_gelu=False)
LINEN, PRE_LINEN, TIMM, KERAS = "stem/kernel", "embedding/kernel", "stem.proj.weight", "layers/patch_embed/vars/0"
FACTS = {LINEN: OFFICIAL, PRE_LINEN: OFFICIAL, TIMM: ModelFacts(exact_gelu=True), KERAS: ModelFacts()}  # by the stem
PREFIXES = r"(module\.|_orig_mod\.|model\.|params/|opt/target/)*"  # of training checkpoints
KINDS = ("gamma", "beta", "kernel", "bias")  # of LayerNorms, and of all others
MIXING = [f"{kind}_mixing/dense_{i}" for kind in ("token", "channel") for i in (0, 1)]
LINEN_WORDS = {"mixer_block": "MixerBlock", "/layer_norm": "/LayerNorm", "/dense": "/Dense"}  # for ours
LINEN_WORDS |= {"gamma": "scale", "beta": "bias"}
PATTERNS = {  # they turn names of any layout into ours, one after another
    r"^(embedding/|stem\.proj\.|layers/patch_embed/)": "stem/",
    r"^(head\.|layers/dense/|layers/classifier_head/)": "head/",
    r"^(Mixer/encoder_norm/|norm\.|layers/layer_norm/)": "pre_head_layer_norm/",
    "^layers/mixer_block/": "mixer_block_0/",
    r"^(MixerBlock_|Mixer/encoderblock_|blocks\.|layers/mixer_block_)(\d+)[/.]": r"mixer_block_\2/",
    "/LayerNorm_": "/layer_norm_",
    **{rf"/norm{i + 1}\.": f"/layer_norm_{i}/" for i in (0, 1)},  # timm counts from 1
    "/Dense_": "/dense_",
    **{rf"_mixing_phase_\d+/(kernel|bias){i + 1}$": rf"_mixing/dense_{i}/\1" for i in (0, 1)},
    **{rf"/mlp_(token|channel)s\.fc{i + 1}\.": rf"/\1_mixing/dense_{i}/" for i in (0, 1)},
    r"(norm\w*)/(scale|weight|vars/0)$": r"\1/gamma",
    r"(norm\w*)/(bias|vars/1)$": r"\1/beta",
    "/(weight|vars/0)$": "/kernel",
    "/vars/1$": "/bias",
}


def own_names(arrays):
    """The arrays of a file under our names and in our orientation, and all that is known by its layout.

    Returns `(arrays, origins, facts, notes)`: an unknown array keeps its name, `origins` are the names in the file,
    `facts` those of its model, and `notes` for the user. ValueError for an unknown layout, or two arrays of one weight.
    """
    stems = rf"(?P<prefix>{PREFIXES})(?P<layout>{'|'.join(map(re.escape, FACTS))})"
    stem = next((match for key in arrays if (match := re.fullmatch(stems, key))), None)
    if stem is None:
        raise ValueError(
            f"The arrays are not those of a known Mixer file. Expected one of {', '.join(FACTS)}, got {len(arrays)} "
            f"arrays, among them: {', '.join(sorted(arrays)[:5]) or 'none'}."
        )
    prefix, layout = stem["prefix"], stem["layout"]
    kept = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
    left_out = len(arrays) - len(kept)
    notes = (f"The prefix {prefix!r} of the names is removed; {left_out} arrays without it are left out.",)
    named: dict[str, np.ndarray] = {}
    origins: dict[str, str] = {}
    for key, array in kept.items():
        own = _renumbered(key, kept) if layout == PRE_LINEN else key
        for pattern, replacement in PATTERNS.items():
            own = re.sub(pattern, replacement, own)
        if own in named:
            raise ValueError(f"the arrays {origins[own]!r} and {prefix + key!r} are both {own!r}.")
        if layout == PRE_LINEN and "_mixing/" in own:
            array = array.squeeze()  # axes of length 1
        elif layout == TIMM and own.endswith("/kernel"):
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T  # (out, in, h, w) -> (h, w, in, out)
        named[own], origins[own] = array, prefix + key
    return named, origins, FACTS[layout], notes if prefix else ()


def _renumbered(key, arrays):
    """Flax once numbered all modules of a scope, so LayerNorms need not start at 0; only their order counts."""
    match = re.fullmatch(r"(.*/LayerNorm_)(\d+)(/\w+)", key)
    if match is None:
        return key
    numbers = {found[1] for other in arrays if (found := re.fullmatch(rf"{re.escape(match[1])}(\d+)/\w+", other))}
    return f"{match[1]}{sorted(numbers, key=int).index(match[2])}{match[3]}"


def weights_of(parts: Anatomy) -> dict[str, Any]:
    """The weights of body and head by our names; a kernel with a LoRA update is the sum, which cannot be assigned."""
    layers = {"stem": parts.stem, "pre_head_layer_norm": parts.norm}
    for i, block in enumerate(parts.blocks):
        for name in ("layer_norm_0", "layer_norm_1", *MIXING):
            layers[f"mixer_block_{i}/{name}"] = operator.attrgetter(name.replace("/", "."))(block)
    if parts.head is not None:
        layers["head"] = parts.head
    found: dict[str, Any] = {}
    for name, layer in layers.items():
        found |= {f"{name}/{kind}": getattr(layer, kind) for kind in KINDS if hasattr(layer, kind)}
    return found


def save_official(model, path):
    """Writes the weights of a Mixer in the layout of Google's checkpoints (`MixerBlock_0/token_mixing/Dense_0/kernel`).

    Reading the file back gives bit-identical weights. A model without a head gives a file without a head.

    Args:
        model: a Mixer of this package.
        path: the `.npz` file to write; it must not exist.

    Returns:
        The `Path`, written atomically.

    Raises:
        ValueError: the name does not end in `.npz`, the file exists (nothing is overwritten), or the layout cannot
            carry the model: other layers, the erf GELU, another pixel range.

    Source: names and shapes of google-research/vision_transformer, vit_jax/models_mixer.py.

    Example:
        >>> keras_mixer.save_official(keras_mixer.MixerS32(), "Mixer-S_32.npz")  # doctest: +SKIP
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"Expected a path that ends in .npz, got {path}.")
    refuse_existing(path)
    parts = plain_mixer(model, "save_official")
    facts = parts.facts
    if facts.exact_gelu or facts.pixel_range != OFFICIAL.pixel_range:
        raise ValueError(
            f"The official layout is for tanh GELU and pixels in [-1, 1] at the stem, but model {model.name!r} has "
            f"exact_gelu={facts.exact_gelu} and pixel_range={facts.pixel_range}. Save it with model.save('....keras')."
        )
    arrays: dict[str, Any] = {}
    for name, weight in weights_of(parts).items():
        for ours, official in LINEN_WORDS.items():
            name = name.replace(ours, official)
        arrays[name] = keras.ops.convert_to_numpy(weight)
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)
    return path

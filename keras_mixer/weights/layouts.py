"""Names of weights: those of this package, of the two official layouts, of timm and of Keras's `.weights.h5` files.

Linen is the layout of the authors' current code; pre-linen is older, with other names, MLP biases in one scope and axes
of length 1. Kernels of both have our orientation. Those of timm are transposed, as in PyTorch.

Source: vit_jax and big_vision (`models/mlp_mixer.py`, its loader), timm (`models/mlp_mixer.py`, its checkpoint filter).
"""

import dataclasses
import math
import operator
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mixer.anatomy import POOLING, Anatomy
from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.mixer_model import ClassifierHead, ModelFacts
from keras_mixer.variants import Variant
from keras_mixer.weights.readers import load_keras, read_arrays

FORMS: dict[str, Any] = {"exact_gelu": False, "pixel_range": (-1.0, 1.0)}  # arguments of `Mixer` that weights decide
AFTER = (*POOLING, ClassifierHead, keras.layers.Activation)  # what may follow the body of a Mixer
HIDDEN = "mixer_block_0/token_mixing/dense_0/bias"  # one value per hidden unit
TOKENS = "mixer_block_0/token_mixing/dense_1/bias"  # one value per token
LINEN, PRE_LINEN, TIMM, KERAS = "stem/kernel", "embedding/kernel", "stem.proj.weight", "layers/patch_embed/vars/0"
LAYOUTS = dict.fromkeys((LINEN, PRE_LINEN), ModelFacts(**FORMS))  # by the name of the stem
LAYOUTS |= {TIMM: ModelFacts(exact_gelu=True), KERAS: ModelFacts()}
PREFIXES = r"(module\.|_orig_mod\.|model\.|params/|opt/target/)*"  # of training checkpoints
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


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """The weights of a Mixer, under our names; `grid` and `facts` are what the file says about its model."""

    path: Path
    arrays: dict[str, np.ndarray]
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

    def form(self, **given) -> dict[str, Any]:
        """GELU form and pixel range for a new model: those given if not the defaults, else the file's if known."""
        known = {name: value for name in FORMS if (value := getattr(self.facts, name)) is not None}
        return FORMS | known | {name: value for name, value in given.items() if value != FORMS[name]}

    def variant(self) -> Variant:
        """The sizes of the model; ValueError if the arrays do not tell them."""
        try:
            height, width, _, hidden_dim = self.arrays["stem/kernel"].shape
            return Variant(
                patch_size=(height, width),
                num_blocks=len({match[1] for name in self.arrays if (match := re.match(r"mixer_block_(\d+)/", name))}),
                hidden_dim=hidden_dim,
                tokens_mlp_dim=self.arrays[HIDDEN].shape[0],
                channels_mlp_dim=self.arrays["mixer_block_0/channel_mixing/dense_0/bias"].shape[0],
            )
        except (KeyError, ValueError, IndexError) as error:
            raise ValueError(f"{self.path}: not the weights of a Mixer (missing or malformed: {error}).") from error


def read_weights(path) -> WeightFile:
    """Reads a file of any layout; arrays come in our orientation, and an unknown one keeps its name.

    ValueError for a damaged file, an unknown layout, or two arrays of one weight.
    """
    if path.suffix == ".keras":
        mixer = plain_mixer(load_keras(path), f"load_weights from {path}")
        arrays = {name: np.array(weight) for name, weight in weights_of(mixer).items()}
        return WeightFile(path, arrays, mixer.facts, mixer.grid)
    arrays = read_arrays(path)
    stems = rf"(?P<prefix>{PREFIXES})(?P<layout>{'|'.join(map(re.escape, LAYOUTS))})"
    stem = next((match for key in arrays if (match := re.fullmatch(stems, key))), None)
    if stem is None:
        raise ValueError(
            f"{path}: The arrays are not those of a known Mixer file. Expected one of {', '.join(LAYOUTS)}, got "
            f"{len(arrays)} arrays, among them: {', '.join(sorted(arrays)[:5]) or 'none'}."
        )
    prefix, layout = stem["prefix"], stem["layout"]
    kept = {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
    left_out = len(arrays) - len(kept)
    note = f"The prefix {prefix!r} of the names is removed; {left_out} arrays without it are left out."
    named: dict[str, np.ndarray] = {}
    for key, array in kept.items():
        own = _renumbered(key, kept) if layout == PRE_LINEN else key
        for pattern, replacement in PATTERNS.items():
            own = re.sub(pattern, replacement, own)
        if own in named:
            raise ValueError(f"{path}: {prefix + key!r} is not the only array for {own!r}.")
        if layout == PRE_LINEN and "_mixing/" in own:
            array = array.squeeze()  # axes of length 1
        elif layout == TIMM and own.endswith("/kernel"):
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T  # (out, in, h, w) -> (h, w, in, out)
        named[own] = array
    return WeightFile(path, named, LAYOUTS[layout], notes=(note,) if prefix else ())


def _renumbered(key, arrays):
    """Flax once numbered all modules of a scope, so LayerNorms need not start at 0; only their order counts."""
    match = re.fullmatch(r"(.*/LayerNorm_)(\d+)(/\w+)", key)
    if match is None:
        return key
    numbers = {found[1] for other in arrays if (found := re.fullmatch(rf"{re.escape(match[1])}(\d+)/\w+", other))}
    return f"{match[1]}{sorted(numbers, key=int).index(match[2])}{match[3]}"


def plain_mixer(model, purpose) -> Anatomy:
    """The layers of a model that `keras_mixer.Mixer` could have built; ValueError with the purpose for others."""
    mixer = Anatomy(model)
    others = [layer for layer in mixer.before if not isinstance(layer, keras.layers.Rescaling)]
    others += [layer for layer in mixer.after if not isinstance(layer, AFTER)]
    if added := [layer.name for layer in others]:
        inside = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
        use = f"model.get_layer({inside[0]!r})" if inside else "the Mixer to which they were added"
        found = f"model {model.name!r} has other layers too: {', '.join(map(repr, added))}"
        raise ValueError(f"{purpose} takes a Mixer as keras_mixer.Mixer builds it, but {found}. Use {use}.")
    mixer.input_range()  # raises unless the stem sees the pixels that it expects
    return mixer


def weights_of(mixer: Anatomy) -> dict[str, Any]:
    """The weights of body and head by our names."""
    layers = {"stem": mixer.stem, "pre_head_layer_norm": mixer.norm}
    for i, block in enumerate(mixer.blocks):
        for name in ("layer_norm_0", "layer_norm_1", *MIXING):
            layers[f"mixer_block_{i}/{name}"] = operator.attrgetter(name.replace("/", "."))(block)
    if mixer.head is not None:
        layers["head"] = mixer.head
    found: dict[str, Any] = {}
    for name, layer in layers.items():
        found |= {f"{name}/{weight.name}": weight for weight in layer.weights}
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
    mixer = plain_mixer(model, "save_official")
    form = {name: getattr(mixer.facts, name) for name in FORMS}
    if form != FORMS:
        found = f"The official layout is for tanh GELU and pixels in [-1, 1] at the stem, but {model.name!r} has {form}"
        raise ValueError(f"{found}. Save it with model.save('....keras').")
    arrays: dict[str, Any] = {}
    for name, weight in weights_of(mixer).items():
        for ours, official in LINEN_WORDS.items():
            name = name.replace(ours, official)
        arrays[name] = keras.ops.convert_to_numpy(weight)
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)
    return path

"""Maps the weight names of the two official layouts and of timm to ours.

Linen is the layout of the authors' current code; pre-linen is older, with other names, MLP biases in one scope and axes
of length 1. Kernels of both have our orientation. Those of timm are transposed, as in PyTorch.

Source: vit_jax and big_vision (`models/mlp_mixer.py`, its loader), timm (`models/mlp_mixer.py`, its checkpoint filter).
"""

import re

from keras_mixer.weights.archives import Entry

NORM = {"scale": "gamma", "weight": "gamma", "bias": "beta"}


def own_names(entries: dict[str, Entry]) -> dict[str, Entry]:
    """The arrays under the weight names of this package. Unknown arrays keep their names.

    Raises:
        ValueError: the layout is unknown (the message lists the known ones), or two arrays map to the same weight.
    """
    if is_timm(entries):
        return _from_timm(entries)
    if "embedding/kernel" in entries:
        return _from_pre_linen(entries)
    if "stem/kernel" in entries:
        return _renamed(entries, LINEN)
    some = ", ".join(sorted(entries)[:5]) or "none"
    raise ValueError(
        "The arrays are not those of a known Mixer file. Expected 'stem/kernel' (official), 'embedding/kernel' "
        f"(official, pre-linen) or 'stem.proj.weight' (timm), got {len(entries)} arrays, among them: {some}."
    )


def is_timm(entries: dict[str, Entry]) -> bool:
    """Whether the names are those of timm."""
    return "stem.proj.weight" in entries


def official_name(own_name: str) -> str:
    """The linen name of one of our weights: `mixer_block_0/layer_norm_1/gamma -> MixerBlock_0/LayerNorm_1/scale`."""
    name = re.sub(r"^mixer_block_", "MixerBlock_", own_name)
    name = re.sub(r"/layer_norm_(\d)/", r"/LayerNorm_\1/", name)
    name = re.sub(r"/dense_(\d)/", r"/Dense_\1/", name)
    return re.sub(r"beta$", "bias", re.sub(r"gamma$", "scale", name))


LINEN = (
    (r"(stem|head)/(kernel|bias)", lambda m: f"{m[1]}/{m[2]}"),
    (r"MixerBlock_(\d+)/LayerNorm_([01])/(scale|bias)", lambda m: f"mixer_block_{m[1]}/layer_norm_{m[2]}/{NORM[m[3]]}"),
    (
        r"MixerBlock_(\d+)/(token|channel)_mixing/Dense_([01])/(kernel|bias)",
        lambda m: f"mixer_block_{m[1]}/{m[2]}_mixing/dense_{m[3]}/{m[4]}",
    ),
    (r"pre_head_layer_norm/(scale|bias)", lambda m: f"pre_head_layer_norm/{NORM[m[1]]}"),
)
PRE_LINEN = (
    (r"embedding/(kernel|bias)", lambda m: f"stem/{m[1]}"),
    (r"head/(kernel|bias)", lambda m: f"head/{m[1]}"),
    (
        r"Mixer/encoderblock_(\d+)/LayerNorm_([01])/(scale|bias)",
        lambda m: f"mixer_block_{m[1]}/layer_norm_{m[2]}/{NORM[m[3]]}",
    ),
    (
        r"Mixer/encoderblock_(\d+)/(token|channel)_mixing_phase_\d+/(kernel|bias)([12])",
        lambda m: f"mixer_block_{m[1]}/{m[2]}_mixing/dense_{int(m[4]) - 1}/{m[3]}",
    ),
    (r"Mixer/encoder_norm/(scale|bias)", lambda m: f"pre_head_layer_norm/{NORM[m[1]]}"),
)
KERNEL = {"weight": "kernel", "bias": "bias"}
TIMM = (
    (r"stem\.proj\.(weight|bias)", lambda m: f"stem/{KERNEL[m[1]]}"),
    (r"head\.(weight|bias)", lambda m: f"head/{KERNEL[m[1]]}"),
    (
        r"blocks\.(\d+)\.norm([12])\.(weight|bias)",
        lambda m: f"mixer_block_{m[1]}/layer_norm_{int(m[2]) - 1}/{NORM[m[3]]}",
    ),
    (
        r"blocks\.(\d+)\.mlp_(token|channel)s\.fc([12])\.(weight|bias)",
        lambda m: f"mixer_block_{m[1]}/{m[2]}_mixing/dense_{int(m[3]) - 1}/{KERNEL[m[4]]}",
    ),
    (r"norm\.(weight|bias)", lambda m: f"pre_head_layer_norm/{NORM[m[1]]}"),
)


def _renamed(entries, rules):
    renamed: dict[str, Entry] = {}
    for name, entry in entries.items():
        for pattern, own in rules:
            if match := re.fullmatch(pattern, name):
                if own(match) in renamed:
                    raise ValueError(f"the arrays {renamed[own(match)].origin!r} and {name!r} are both {own(match)!r}.")
                renamed[own(match)] = entry
                break
        else:
            renamed[name] = entry
    return renamed


def _from_pre_linen(entries):
    """Flax numbered all modules of a scope, so LayerNorm indices need not start at 0; only their order counts."""
    indices: dict[str, set[int]] = {}
    for name in entries:
        if match := re.fullmatch(r"(Mixer/encoderblock_\d+)/LayerNorm_(\d+)/\w+", name):
            indices.setdefault(match[1], set()).add(int(match[2]))

    def in_order(match):
        return f"{match[1]}/LayerNorm_{sorted(indices[match[1]]).index(int(match[2]))}/"

    renumbered = {
        re.sub(r"^(Mixer/encoderblock_\d+)/LayerNorm_(\d+)/", in_order, name): e for name, e in entries.items()
    }
    renamed = _renamed(renumbered, PRE_LINEN)
    return {name: entry.squeezed() if "_mixing/" in name else entry for name, entry in renamed.items()}


def _from_timm(entries):
    def oriented(name, entry):
        if name == "stem/kernel" and len(entry.shape) == 4:
            return entry.transposed(2, 3, 1, 0)  # (out, in, h, w) -> (h, w, in, out)
        if name.endswith("/kernel") and len(entry.shape) == 2:
            return entry.transposed(1, 0)
        return entry

    return {name: oriented(name, entry) for name, entry in _renamed(entries, TIMM).items()}

"""Compares the arrays of a file with a model: head, stem and token mixing may be adapted, all other shapes must match.

Arrays are named as in this package; `shapes` are those of the model's weights, and `origins` the names in the file.
"""

import re

import numpy as np

from keras_mixer.variants import Variant, as_pair

HEAD = ("head/kernel", "head/bias")
HIDDEN = "mixer_block_0/token_mixing/dense_0/bias"  # one value per hidden unit
LISTED = 20  # most arrays of a kind that an error lists; it also counts them


def variant_of(arrays) -> Variant:
    """The sizes of a Mixer from its weights; ValueError if they are others."""
    try:
        *patch_size, _, hidden_dim = arrays["stem/kernel"].shape
        return Variant(
            patch_size=as_pair(patch_size),
            num_blocks=len({match[1] for name in arrays if (match := re.match(r"mixer_block_(\d+)/", name))}),
            hidden_dim=hidden_dim,
            tokens_mlp_dim=arrays[HIDDEN].shape[0],
            channels_mlp_dim=arrays["mixer_block_0/channel_mixing/dense_0/bias"].shape[0],
        )
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"These are not the weights of a Mixer (missing or malformed: {error}).") from error


def choose_head(arrays, shapes, head, log, others=False):
    """The arrays without a head of `others`, or one that does not fit the model, whose head then starts at zero."""
    if "head/bias" in shapes:
        hidden_dim, classes = shapes["head/kernel"]
        given = [arrays[name].shape for name in HEAD if name in arrays]
        count = arrays["head/bias"].size if "head/bias" in arrays else 0
        if (count == classes and not others) or given not in ([], [(hidden_dim, count), (count,)]):
            return arrays  # it fits, or is damaged and reported with the rest
        found = f"{count}{' other' * (count == classes)} classes" if given else "no head"
        if head == "load":
            raise ValueError(f"the head does not fit: {found} in the file, {classes} classes in the model.")
        log(f"The file has {found}, the model {classes} classes: the head starts at zero.")
    return {name: array for name, array in arrays.items() if name not in HEAD}


def check_fit(arrays, origins, shapes, grids):
    """Raises ValueError unless all arrays are finite and of the model's shapes, but for the `grids` (file, model)."""
    head_is_new = not set(HEAD) & set(arrays)
    expected = {name: _expected_shape(name, shapes[name], arrays, grids) for name in shapes}
    problems = {
        "missing": [name for name in shapes if name not in arrays and not (head_is_new and name in HEAD)],
        "unexpected": [origins[name] for name in arrays if name not in shapes],
        "of the wrong shape": [
            f"{origins[name]} (expected {expected[name]}, found {array.shape})"
            for name, array in arrays.items()
            if name in shapes and array.shape != expected[name]
        ],
    }
    if any(problems.values()):
        lists = (f"{len(names)} {kind}: {', '.join(names[:LISTED])}" for kind, names in problems.items() if names)
        raise ValueError(f"arrays do not fit the model; {'; '.join(lists)}.")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"array {origins[name]!r} contains values that are not finite.")


def _expected_shape(name, shape, arrays, grids):
    """The shape that an array of the file must have; only the numbers of channels and tokens may be the file's own."""
    if name == "stem/kernel" and name in arrays and arrays[name].ndim == 4:
        return (*shape[:2], arrays[name].shape[2] or shape[2], shape[3])
    if grids[0] != grids[1] and "/token_mixing/" in name and HIDDEN in arrays:
        sides = grids[0][0] * grids[0][1], arrays[HIDDEN].size  # (tokens, hidden units)
        sides = sides if "dense_0" in name else sides[::-1]
        return sides if name.endswith("kernel") else sides[1:]
    return shape

"""Compares the arrays of a file with a model: head, stem and token mixing may be adapted, all other shapes must match.

Arrays are named as in this package; `shapes` are those of the model's weights, and `origins` the names in the file.
"""

import re

from keras_mixer.variants import Variant

HEAD = ("head/kernel", "head/bias")
HIDDEN = "mixer_block_0/token_mixing/dense_0/bias"  # one value per hidden unit
LISTED = 20  # largest number of arrays that an error lists


def variant_of(arrays) -> Variant:
    """The sizes of a Mixer from its weights; ValueError if they are others."""
    try:
        patch_height, patch_width, _, hidden_dim = arrays["stem/kernel"].shape
        return Variant(
            patch_size=patch_height if patch_height == patch_width else (patch_height, patch_width),
            num_blocks=len({match[1] for name in arrays if (match := re.match(r"mixer_block_(\d+)/", name))}),
            hidden_dim=hidden_dim,
            tokens_mlp_dim=arrays[HIDDEN].shape[0],
            channels_mlp_dim=arrays["mixer_block_0/channel_mixing/dense_0/bias"].shape[0],
        )
    except (KeyError, ValueError, IndexError) as error:
        raise ValueError(f"These are not the weights of a Mixer (missing or malformed: {error}).") from error


def choose_head(arrays, shapes, head, log):
    """The arrays without the head of the file if it does not fit the model, whose head then starts at zero."""
    given = {name: arrays[name].shape for name in HEAD if name in arrays}
    wanted = {name: shapes[name] for name in HEAD if name in shapes}
    if wanted and (given == wanted or len(given) == 1):
        return arrays  # it fits, or is damaged and reported with the rest
    if wanted:
        hidden_dim, classes = wanted["head/kernel"]
        found = f"{given['head/bias'][-1]} classes" if given and given["head/bias"] else "no head"
        regular = not given or given["head/kernel"] == (hidden_dim, *given["head/bias"])
        if head == "load" or not regular:
            raise ValueError(f"the head does not fit: {found} in the file {given}, {classes} classes in the model.")
        log(f"The file has {found}, the model {classes} classes: the head starts at zero.")
    return {name: array for name, array in arrays.items() if name not in HEAD}


def check_fit(arrays, origins, shapes, grids):
    """Raises ValueError unless every array has the model's shape, or one for another of the `grids` (file, model)."""
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
        lists = (f"{kind}: {_listed(names)}" for kind, names in problems.items() if names)
        raise ValueError(f"arrays do not fit the model; {'; '.join(lists)}.")


def _expected_shape(name, shape, arrays, grids):
    """The shape that an array of the file must have; only the numbers of channels and tokens may be the file's own."""
    if name == "stem/kernel" and name in arrays and arrays[name].ndim == 4:
        return (*shape[:2], arrays[name].shape[2] or shape[2], shape[3])
    if grids[0] != grids[1] and "/token_mixing/" in name and HIDDEN in arrays:
        sides = grids[0][0] * grids[0][1], arrays[HIDDEN].size  # (tokens, hidden units)
        sides = sides if "dense_0" in name else sides[::-1]
        return sides if name.endswith("kernel") else sides[1:]
    return shape


def _listed(names):
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return f"{', '.join(names[:LISTED])}{more}"

"""Converts weight files from one format to another."""

import re
from pathlib import Path

import numpy as np

from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.models import Mixer
from keras_mixer.variants import Variant, as_pair
from keras_mixer.weights import downloads
from keras_mixer.weights.layouts import save_official
from keras_mixer.weights.loading import open_weights
from keras_mixer.weights.readers import load_keras
from keras_mixer.weights.resolution import HIDDEN

TARGETS = (".npz", ".keras", ".weights.h5")


def convert(source, target) -> Path:
    """Reads a file for `load_weights` and writes a new one, atomically.

    FileNotFoundError without the source; ValueError if it cannot be used, or is a `.weights.h5` file, which does not
    say which model it is of, or if the target exists, ends in no format or cannot carry the model.
    """
    source, target = Path(downloads.local(source)), Path(target)
    if not target.name.endswith(TARGETS):
        raise ValueError(f"Expected a target that ends in {', '.join(TARGETS)}, got {target}.")
    refuse_existing(target)
    if source.name.endswith(".weights.h5"):
        raise ValueError(f"{source} does not say which model it is of. Load it into one in Python, and save that.")
    model = load_keras(source) if source.suffix == ".keras" else _model_of(source)
    if target.suffix == ".npz":
        return save_official(model, target)
    with atomic_write(target) as temporary:
        model.save(temporary) if target.suffix == ".keras" else model.save_weights(temporary)
    return target


def _model_of(source):
    file = open_weights(source)
    try:
        variant = variant_of(file.arrays)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    shape = *np.multiply(file.grid_for(), variant.patch_size), file.arrays["stem/kernel"].shape[2]
    head = file.arrays.get("head/kernel", file.arrays.get("head/bias"))
    top = {"include_top": False} if head is None else {"classes": head.shape[-1] if head.ndim else 0}
    return Mixer(**vars(variant), input_shape=shape, **top, weights=file)


def variant_of(arrays) -> Variant:
    """The sizes of a Mixer from its weights by our names; ValueError if they are others."""
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

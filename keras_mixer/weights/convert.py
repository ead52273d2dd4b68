"""Converts weight files from one format to another."""

from pathlib import Path

import numpy as np

from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.models import Mixer
from keras_mixer.weights import downloads
from keras_mixer.weights.layouts import save_official
from keras_mixer.weights.loading import open_weights
from keras_mixer.weights.readers import load_keras

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
    model = load_keras(source, compile=target.suffix == ".keras") if source.suffix == ".keras" else _model_of(source)
    if target.suffix == ".npz":
        return save_official(model, target)
    with atomic_write(target) as temporary:
        model.save(temporary) if target.suffix == ".keras" else model.save_weights(temporary)
    return target


def _model_of(source):
    file = open_weights(source)
    variant = file.variant()
    shape = *np.multiply(file.grid_for(), variant.patch_size), file.arrays["stem/kernel"].shape[2]
    head = file.arrays.get("head/kernel", file.arrays.get("head/bias"))
    top = {"include_top": False} if head is None else {"classes": head.shape[-1] if head.ndim else 0}
    return Mixer(**vars(variant), input_shape=shape, **top, weights=file)

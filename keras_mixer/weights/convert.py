"""Converts weight files from one format to another."""

import dataclasses
from pathlib import Path

import numpy as np

from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.models import Mixer
from keras_mixer.weights import downloads
from keras_mixer.weights.fitting import variant_of
from keras_mixer.weights.layouts import save_official
from keras_mixer.weights.loading import load_weights, open_weights
from keras_mixer.weights.readers import load_keras

TARGETS = (".npz", ".keras", ".weights.h5")


def convert(source, target, like=None, log=print) -> Path:
    """Reads a file for `load_weights` and writes a new one, atomically; lines for the user go to `log`.

    `like` is a `.keras` file of the same model, needed for a `.weights.h5` source. FileNotFoundError without the
    source; ValueError if it cannot be used, or if the target exists, ends in no format or cannot carry the model.
    """
    target = Path(target)
    if not target.name.endswith(TARGETS):
        raise ValueError(f"Expected a target that ends in {', '.join(TARGETS)}, got {target}.")
    refuse_existing(target)
    model = _read(Path(downloads.local(source)), like, log)
    if target.suffix == ".npz":
        return save_official(model, target)
    with atomic_write(target) as temporary:
        model.save(temporary) if target.suffix == ".keras" else model.save_weights(temporary)
    return target


def _read(source, like, log):
    if like is not None:
        return load_weights(load_keras(downloads.local(like)), source, head="load", log=log)
    if source.name.endswith(".weights.h5"):
        raise ValueError(f"{source} does not say which model it is of; pass a .keras file of the same model (--like).")
    if source.suffix == ".keras":
        return load_keras(source)
    file = open_weights(source)
    try:
        variant, (exact_gelu, pixel_range), head = variant_of(file.arrays), file.form(), file.arrays.get("head/bias")
        size, channels = np.multiply(file.grid_for(), variant.patch_size), file.arrays["stem/kernel"].shape[2]
        model = Mixer(
            **dataclasses.asdict(variant),
            input_shape=(*size, channels),
            include_top=head is not None,
            classes=1000 if head is None else len(head),
            exact_gelu=exact_gelu,
            pixel_range=pixel_range,
        )
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"{source}: {error}") from error
    return load_weights(model, file, head="load", log=log)

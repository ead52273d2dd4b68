"""Converts weight files from one format to another."""

import dataclasses
from pathlib import Path

from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.models import Mixer
from keras_mixer.variants import as_pair
from keras_mixer.weights import downloads
from keras_mixer.weights.fitting import variant_of
from keras_mixer.weights.layouts import save_official
from keras_mixer.weights.loading import WEIGHTS_H5, kind_of, load_weights, open_weights
from keras_mixer.weights.readers import load_keras

TARGETS = (".npz", ".keras", WEIGHTS_H5)


def convert(source, target, like=None, log=print) -> Path:
    """Reads a file for `load_weights` and writes it in another format, atomically; lines for the user go to `log`.

    The target is a new file, `.npz` (official layout), `.keras` or `.weights.h5`. `like` is a `.keras` file of the same
    model, needed for a `.weights.h5` source. FileNotFoundError without the source; ValueError if it is damaged or
    unknown, or if the target exists or cannot carry the model.
    """
    target = Path(target)
    suffix = next((known for known in TARGETS if target.name.endswith(known)), None)
    if suffix is None:
        raise ValueError(f"Expected a target that ends in {', '.join(TARGETS)}, got {target}.")
    refuse_existing(target)
    model = _read(Path(downloads.local(source)), like, log)
    if suffix == ".npz":
        return save_official(model, target)
    with atomic_write(target) as temporary:
        model.save(temporary) if suffix == ".keras" else model.save_weights(temporary)
    return target


def _read(source, like, log):
    kind = kind_of(source)
    if like is not None:
        return load_weights(load_keras(downloads.local(like)), source, head="load", log=log)
    if kind == WEIGHTS_H5:
        raise ValueError(f"{source} does not say which model it is of; pass a .keras file of the same model (--like).")
    if kind == ".keras":
        return load_keras(source)
    file = open_weights(source)
    try:
        variant, grid, (exact_gelu, pixel_range) = variant_of(file.arrays), file.grid_for(), file.form()
        patch, head = as_pair(variant.patch_size), file.arrays.get("head/bias")
        model = Mixer(
            **dataclasses.asdict(variant),
            input_shape=(grid[0] * patch[0], grid[1] * patch[1], file.arrays["stem/kernel"].shape[2]),
            include_top=head is not None,
            classes=1000 if head is None else len(head),
            exact_gelu=exact_gelu,
            pixel_range=pixel_range,
        )
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"{source}: {error}") from error
    return load_weights(model, file, head="load", log=log)

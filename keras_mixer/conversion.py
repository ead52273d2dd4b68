"""Converts weight files from one format to another."""

import dataclasses
from pathlib import Path

from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.models import Mixer
from keras_mixer.variants import as_pair
from keras_mixer.weights import hub
from keras_mixer.weights.keras_files import load_keras
from keras_mixer.weights.loading import WEIGHTS_H5, kind_of, load_weights, open_weights
from keras_mixer.weights.official import save_official

TARGETS = (".npz", ".keras", WEIGHTS_H5)


def convert(source, target, like=None, log=print):
    """Reads a weight file and writes it in another format.

    Args:
        source: `.npz` (official or with timm's names), `.safetensors` (timm), `.keras` or `.weights.h5`, also
            `hf://owner/name/file`.
        target: the file to write, `.npz` (official layout), `.keras` or `.weights.h5`; it must not exist.
        like: a `.keras` file of the same model, for a `.weights.h5` source: that format does not say what model it
            belongs to.
        log: called with each line for the user.

    Returns:
        The `Path`, written atomically.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: it is damaged or of an unknown kind, or the target exists (nothing is overwritten).

    Source: ours.
    """
    target = Path(target)
    suffix = next((known for known in TARGETS if target.name.endswith(known)), None)
    if suffix is None:
        raise ValueError(f"Expected a target that ends in {', '.join(TARGETS)}, got {target}.")
    refuse_existing(target)
    model = _read(Path(hub.local(source)), like, log)
    if suffix == ".npz":
        return save_official(model, target)
    with atomic_write(target) as temporary:
        model.save(temporary) if suffix == ".keras" else model.save_weights(temporary)
    return target


def _read(source, like, log):
    kind = kind_of(source)
    if kind == WEIGHTS_H5:
        if like is None:
            raise ValueError(
                f"{source} does not say what model it belongs to; pass a .keras file of the same model (--like)."
            )
        return load_weights(load_keras(like), source)
    if kind == ".keras":
        return load_keras(source)
    file = open_weights(source)
    try:
        variant, grid = file.variant(), file.grid_for()
        exact_gelu, pixel_range = file.form()
        head = file.entries.get("head/bias")
        patch_height, patch_width = as_pair(variant.patch_size)
        model = Mixer(
            **dataclasses.asdict(variant),
            input_shape=(grid[0] * patch_height, grid[1] * patch_width, file.entries["stem/kernel"].shape[2]),
            include_top=head is not None,
            classes=head.shape[0] if head is not None else 1000,
            exact_gelu=exact_gelu,
            pixel_range=pixel_range,
        )
    except (ValueError, LookupError) as error:
        raise ValueError(f"{source}: {error}") from error
    return load_weights(model, file, head="load", log=log)

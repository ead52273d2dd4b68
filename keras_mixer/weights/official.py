"""Writes weights as an official `.npz` file, in the linen layout of the authors' code."""

from pathlib import Path
from typing import Any

import numpy as np

from keras_mixer.anatomy import plain
from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.weights.layouts import official_name
from keras_mixer.weights.loading import OFFICIAL, WeightFile


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
            carry the model: other layers, quantized ones, the erf GELU, another pixel range.

    Source: names and shapes of google-research/vision_transformer, vit_jax/models_mixer.py.

    Example:
        >>> keras_mixer.save_official(keras_mixer.MixerS32(), "Mixer-S_32.npz")  # doctest: +SKIP
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"Expected a path that ends in .npz, got {path}.")
    refuse_existing(path)
    parts = plain(model, "save_official")
    file = WeightFile.of(parts, model.name)
    if file.facts.exact_gelu or file.facts.pixel_range != OFFICIAL.pixel_range:
        raise ValueError(
            f"The official layout is for tanh GELU and pixels in [-1, 1] at the stem, but model {model.name!r} has "
            f"exact_gelu={file.facts.exact_gelu} and pixel_range={file.facts.pixel_range}. Save it with "
            "model.save('....keras')."
        )
    arrays: dict[str, Any] = {official_name(name): entry.read() for name, entry in file.entries.items()}
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)
    return path

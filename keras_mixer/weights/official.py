"""Writes weights as an official `.npz` file, in the linen layout of the authors' code."""

from pathlib import Path
from typing import Any

import numpy as np

from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.weights.layouts import official_name


def save_official(model, path):
    """Writes the weights of a Mixer in the layout of Google's checkpoints (`MixerBlock_0/token_mixing/Dense_0/kernel`).

    Reading the file back gives bit-identical weights. A model without a head gives a file without a head.

    Args:
        model: a Mixer of this package.
        path: the `.npz` file to write; it must not exist.

    Returns:
        The `Path`, written atomically.

    Raises:
        ValueError: the name does not end in `.npz`, or the file exists (nothing is overwritten).

    Source: names and shapes of google-research/vision_transformer, vit_jax/models_mixer.py.

    Example:
        >>> keras_mixer.save_official(keras_mixer.MixerS32(), "Mixer-S_32.npz")  # doctest: +SKIP
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"Expected a path that ends in .npz, got {path}.")
    refuse_existing(path)
    arrays: dict[str, Any] = {official_name(weight.path): weight.numpy() for weight in model.weights}
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)
    return path

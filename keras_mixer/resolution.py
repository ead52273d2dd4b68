"""A trained model for another image size: the paper's rule for whole multiples, resampling for the rest."""

from pathlib import Path

from keras_mixer.mixer_model import grid_of
from keras_mixer.models import arguments_of, rebuild
from keras_mixer.variants import token_grid
from keras_mixer.weights.archives import Entry
from keras_mixer.weights.loading import WeightFile, load_weights
from keras_mixer.weights.resolution import METHODS, widened_dim


def change_resolution(model, input_shape, method="block_diagonal"):
    """A new model for images of another size, starting from what the old one has learnt.

    Stem, channel-mixing MLPs, norms and head are copied. Token mixing follows `method`:

    "block_diagonal", the paper's rule: the new image is made of K_h x K_w tiles of the old size, each mixed on its own
    by a copy of the old weights. D_S grows by K_h K_w. The logits of the new model are the mean of the old model's
    logits on the tiles, until training connects them.

    "bilinear", not from the paper: the token weights are stretched over the new grid like pictures, for any size. D_S
    stays, so it also costs less for whole multiples.

    Args:
        model: a Mixer of this package; it is not changed.
        input_shape: `(height, width, channels)` of the new images in pixels. Another number of channels adapts the
            stem: summed for one, repeated and rescaled for more.
        method: "block_diagonal" or "bilinear".

    Returns:
        A new `keras.Model`.

    Raises:
        ValueError: the patch does not divide the size, or it is not made of whole tiles; names sizes that work.

    Source: appendix C of arXiv 2105.01601 for "block_diagonal", extended to unequal K_h and K_w; "bilinear" is ours.

    Example:
        >>> small = keras_mixer.MixerS32(classes=10)
        >>> keras_mixer.change_resolution(small, (448, 224, 3)).input_shape
        (None, 448, 224, 3)
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not {method!r}.")
    hidden = arguments_of(model)["tokens_mlp_dim"]
    old_grid = grid_of(model)
    new_grid = token_grid(input_shape[:2], model.get_layer("stem").patch_size)
    if method == "block_diagonal":
        hidden = widened_dim(hidden, old_grid, new_grid)
    new = rebuild(model, input_shape=tuple(input_shape), tokens_mlp_dim=hidden)
    entries = {weight.path: Entry(weight.path, tuple(weight.shape), weight.numpy) for weight in model.weights}
    load_weights(
        new, WeightFile(Path(model.name), entries, old_grid), head="load", method=method, log=lambda line: None
    )
    return new

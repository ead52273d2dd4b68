"""A trained model for another image size: the paper's rule for whole multiples, resampling for any other size."""

from keras_mixer.anatomy import anatomy
from keras_mixer.models import copy_weights, rebuild
from keras_mixer.variants import token_grid
from keras_mixer.weights.loading import WeightFile, fill
from keras_mixer.weights.resolution import METHODS, widened_dim


def change_resolution(model, input_shape, method="block_diagonal"):
    """A new model for another image size, initialized from the weights of the old one.

    Stem, channel-mixing MLPs, norms and head are copied. Token mixing follows `method`:

    "block_diagonal", the paper's rule: the new image consists of K_h x K_w tiles of the old size, and a copy of the old
    weights mixes each tile separately. D_S is multiplied by K_h K_w. The logits of the new model are the mean of the
    old model's logits over the tiles, until training connects them.

    "bilinear", not from the paper: the token weights are resized to the new grid like images, for any size. D_S stays,
    so it also costs less for whole multiples.

    Args:
        model: a Mixer of this package, with layers added to it or not; not modified.
        input_shape: `(height, width, channels)` of the new images in pixels. Another number of channels adapts the
            stem: summed for one channel, repeated and rescaled for more.
        method: "block_diagonal" or "bilinear".

    Returns:
        A new `keras.Model`.

    Raises:
        ValueError: the patch size does not divide the image size, or the image does not consist of whole tiles; the
            message names sizes that work.

    Source: appendix C of arXiv 2105.01601 for "block_diagonal", extended to unequal K_h and K_w; "bilinear" is ours.

    Example:
        >>> small = keras_mixer.MixerS32(classes=10)
        >>> keras_mixer.change_resolution(small, (448, 224, 3)).input_shape
        (None, 448, 224, 3)
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}.")
    parts = anatomy(model)
    file = WeightFile.of(parts, model.name)
    hidden = parts.blocks[0].tokens_mlp_dim
    if method == "block_diagonal":
        hidden = widened_dim(hidden, parts.grid, token_grid(input_shape[:2], parts.stem.patch_size))
    new = rebuild(model, input_shape=tuple(map(int, input_shape)), tokens_mlp_dim=hidden)
    new_parts = anatomy(new)
    fill(new_parts, file, "load", method, log=lambda line: None)
    copy_weights((*parts.before, *parts.after), (*new_parts.before, *new_parts.after))
    return new

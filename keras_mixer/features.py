"""What a Mixer computes inside, as a model of its own on the same weights."""

import keras
from keras import ops

from keras_mixer.models import arguments_of, blocks_of


class _Branches(keras.layers.Layer):
    """What the two MLPs of a block add to the tokens: `(B, S, C) -> (B, S, C), (B, S, C)`, on the block's weights."""

    def __init__(self, block, **kwargs):
        super().__init__(dtype=block.dtype_policy, **kwargs)
        self.block = block

    def call(self, x):
        mixed_tokens = self.block.mix_tokens(x)
        return mixed_tokens, self.block.mix_channels(ops.add(x, mixed_tokens))

    def compute_output_shape(self, input_shape):
        return input_shape, input_shape


def feature_extractor(model, names=None):
    """What a Mixer computes inside, by name: a model `(B, H, W, channels) -> {name: tensor}` on the same weights.

    Names: `stem`, `block_i`, `block_i/token_mixing`, `block_i/channel_mixing` (what that MLP adds to the tokens) and
    `normed` (after the last LayerNorm) as grids `(B, g_h, g_w, C)`; `pre_logits`, the mean over tokens `(B, C)`;
    `logits` `(B, classes)`.

    Args:
        model: a model of this package.
        names: the features wanted; None for all but `normed` and those of the single MLPs.

    Returns:
        A `keras.Model` with a dict output. It shares the layers of `model`; nothing is copied.

    Raises:
        ValueError: a name is unknown (lists the valid ones), or `model` is not a Mixer.

    Source: ours; the names are those of big_vision's `out` dict.

    Example:
        >>> model = keras_mixer.MixerS32(classes=10)
        >>> features = keras_mixer.feature_extractor(model, ["block_7", "pre_logits"]).output
        >>> {name: feature.shape for name, feature in features.items()}
        {'block_7': (None, 7, 7, 512), 'pre_logits': (None, 512)}
    """
    arguments_of(model)  # raises for another kind of model
    layers = {layer.name: layer for layer in model.layers}
    grid = layers["stem"].output.shape[1:]

    def as_grid(tokens):
        return ops.reshape(tokens, (-1, *grid))

    blocks = blocks_of(model)
    features = {"stem": layers["stem"].output}
    inner = {}
    for i, block in enumerate(blocks):
        features[f"block_{i}"] = as_grid(block.output)
        mixed_tokens, mixed_channels = _Branches(block, name=f"{block.name}_branches")(block.input)
        inner[f"block_{i}/token_mixing"] = as_grid(mixed_tokens)
        inner[f"block_{i}/channel_mixing"] = as_grid(mixed_channels)
    inner["normed"] = as_grid(layers["pre_head_layer_norm"].output)
    if "pool" in layers:
        features["pre_logits"] = layers["pool"].output
    else:
        features["pre_logits"] = ops.mean(layers["pre_head_layer_norm"].output, axis=1)
    if "head" in layers:
        features["logits"] = layers["head"].output
    valid = features | inner
    wanted = list(features) if names is None else list(names)
    unknown = [name for name in wanted if name not in valid]
    if unknown:
        raise ValueError(f"Unknown features {unknown}; this model has: {', '.join(valid)}.")
    return keras.Model(model.input, {name: valid[name] for name in wanted}, name=f"{model.name}_features")

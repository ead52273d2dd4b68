"""Feature extraction: the inner activations of a Mixer as outputs of a model with the same weights."""

import keras
from keras import ops

from keras_mixer.anatomy import anatomy


@keras.saving.register_keras_serializable("keras_mixer")
class BlockBranches(keras.layers.Layer):
    """A Mixer block that also returns the outputs of its MLPs: `(B, S, C) -> (B, S, C), (B, S, C), (B, S, C)`.

    Args:
        block: the `MixerBlock`; its weights are shared.
        **kwargs: `name`, `dtype` and the other arguments of `keras.layers.Layer`.

    Returns:
        The output of the block, the output of token mixing, the output of channel mixing (both before the skip
        connection).
    """

    def __init__(self, block, **kwargs):
        super().__init__(**{"dtype": block.dtype_policy} | kwargs)
        self.block = block

    def build(self, input_shape):
        if not self.block.built:  # after loading; otherwise the block belongs to a model
            self.block.build(input_shape)

    def call(self, x, training=None):
        mixed_tokens = self.block.mix_tokens(x, training=training)
        y = ops.add(x, self.block.drop_path_0(mixed_tokens, training=training))
        mixed_channels = self.block.mix_channels(y, training=training)
        return ops.add(y, self.block.drop_path_1(mixed_channels, training=training)), mixed_tokens, mixed_channels

    def compute_output_shape(self, input_shape):
        return input_shape, input_shape, input_shape

    def get_config(self):
        return {**super().get_config(), "block": keras.saving.serialize_keras_object(self.block)}

    @classmethod
    def from_config(cls, config):
        return cls(**config | {"block": keras.saving.deserialize_keras_object(config["block"])})


def feature_extractor(model, names=None):
    """Extracts features by name: a model `(B, H, W, channels) -> {name: tensor}` with the same weights.

    Names: `stem`, `block_i`, `block_i/token_mixing`, `block_i/channel_mixing` (the output of that MLP, before the skip
    connection) and `normed` (after the last LayerNorm) as grids `(B, g_h, g_w, C)`; `pre_logits`, the mean over tokens
    `(B, C)`; `logits` `(B, classes)`.

    Args:
        model: a Mixer of this package. Layers that were added after its last LayerNorm are left out.
        names: the features to extract, or one of them; None for all except `normed` and the MLP outputs.

    Returns:
        A `keras.Model` with a dict output. It shares the layers of `model`. After saving and loading it is
        independent.

    Raises:
        ValueError: a name is unknown (the message lists the valid ones), or `model` is not a Mixer.

    Source: ours; the names are those of big_vision's `out` dict.

    Example:
        >>> model = keras_mixer.MixerS32(classes=10)
        >>> features = keras_mixer.feature_extractor(model, ["block_7", "pre_logits"]).output
        >>> {name: feature.shape for name, feature in features.items()}
        {'block_7': (None, 7, 7, 512), 'pre_logits': (None, 512)}
    """
    parts = anatomy(model)
    grid = (*parts.grid, parts.stem.hidden_dim)

    def as_grid(tokens):
        return ops.reshape(tokens, (-1, *grid))

    x = model.input  # (B, H, W, channels)
    for layer in (*parts.before, parts.stem):
        x = layer(x)
    features, inner = {"stem": x}, {}  # (B, g_h, g_w, C)
    x = parts.tokens(x)  # (B, S, C)
    for i, block in enumerate(parts.blocks):
        x, mixed_tokens, mixed_channels = BlockBranches(block, name=f"{block.name}_branches")(x)
        features[f"block_{i}"] = as_grid(x)
        inner[f"block_{i}/token_mixing"] = as_grid(mixed_tokens)
        inner[f"block_{i}/channel_mixing"] = as_grid(mixed_channels)
    x = parts.norm(x)
    inner["normed"] = as_grid(x)
    features["pre_logits"] = x = parts.pool(x)  # (B, C)
    if parts.head is not None:
        features["logits"] = parts.head(x)
    valid = features | inner
    wanted = list(features) if names is None else [names] if isinstance(names, str) else list(names)
    unknown = [name for name in wanted if name not in valid]
    if unknown:
        raise ValueError(f"Unknown features {unknown}; this model has: {', '.join(valid)}.")
    return keras.Model(model.input, {name: valid[name] for name in wanted}, name=f"{model.name}_features")

"""Feature extraction: the inner activations of a Mixer as outputs of a model with the same weights."""

import keras
from keras import ops

from keras_mixer.anatomy import Anatomy


@keras.saving.register_keras_serializable("keras_mixer")
class MlpOutputs(keras.layers.Wrapper):
    """What the MLPs of a block, which is shared, add to tokens, token mixing first: `(B, S, C) -> two of (B, S, C)`."""

    def call(self, x):
        mixed_tokens = self.layer.mix_tokens(x)
        return mixed_tokens, self.layer.mix_channels(ops.add(x, mixed_tokens))

    def compute_output_shape(self, input_shape):
        return input_shape, input_shape


def feature_extractor(model, names=None):
    """Extracts features by name: a model `(B, H, W, channels) -> {name: tensor}` with the same weights.

    Names, as in big_vision: `stem`, `block_i`, `block_i/token_mixing`, `block_i/channel_mixing` (the output of that
    MLP, before the skip connection) and `normed` (after the last LayerNorm) as grids `(B, g_h, g_w, C)`; `pre_logits`,
    the mean over tokens `(B, C)`; `logits` `(B, classes)`.

    Args:
        model: a Mixer of this package. Layers that were added after its last LayerNorm are left out.
        names: the features to extract, or one of them; None for all except `normed` and the MLP outputs.

    Returns:
        A `keras.Model` with a dict output. It shares the layers of `model`; saved and loaded, it is independent.

    Raises:
        ValueError: a name is unknown (the message lists the valid ones), or `model` is not a Mixer.

    Example:
        >>> model = keras_mixer.MixerS32(classes=10)
        >>> features = keras_mixer.feature_extractor(model, ["block_7", "pre_logits"]).output
        >>> {name: feature.shape for name, feature in features.items()}
        {'block_7': (None, 7, 7, 512), 'pre_logits': (None, 512)}
    """
    mixer = Anatomy(model)
    image, *outputs = mixer.apply()
    output_of = dict(zip(mixer.layers, outputs, strict=True))
    found = {"stem": output_of[mixer.stem]}
    for i, (block, before) in enumerate(zip(mixer.blocks, mixer.body[1:], strict=False)):  # tokens or the block before
        mlps = MlpOutputs(block, dtype=block.dtype_policy, name=f"{block.name}_mlps")
        found[f"block_{i}"] = output_of[block]
        found[f"block_{i}/token_mixing"], found[f"block_{i}/channel_mixing"] = mlps(output_of[before])
    found |= {"normed": output_of[mixer.norm], "pre_logits": mixer.pre_logits(outputs)}
    if mixer.head is not None:
        found["logits"] = output_of[mixer.head]
    if names is None:
        names = [name for name in found if "/" not in name and name != "normed"]
    wanted = [names] if isinstance(names, str) else list(names)
    if unknown := [name for name in wanted if name not in found]:
        raise ValueError(f"Unknown features {unknown}; this model has: {', '.join(found)}.")
    grid = (-1, *mixer.grid, mixer.stem.hidden_dim)
    chosen = {name: found[name] for name in wanted}
    chosen = {name: ops.reshape(x, grid) if len(x.shape) == 3 else x for name, x in chosen.items()}
    return keras.Model(image, chosen, name=f"{model.name}_features", trainable=model.trainable)

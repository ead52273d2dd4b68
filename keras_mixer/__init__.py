"""MLP-Mixer (arXiv 2105.01601) for Keras 3: models, training, evaluation, export."""

from keras_mixer.layers import MixerBlock as MixerBlock, MlpBlock as MlpBlock, PatchEmbed as PatchEmbed
from keras_mixer.models import (
    Mixer as Mixer,
    MixerB16 as MixerB16,
    MixerB32 as MixerB32,
    MixerH14 as MixerH14,
    MixerL16 as MixerL16,
    MixerL32 as MixerL32,
    MixerS16 as MixerS16,
    MixerS32 as MixerS32,
    feature_extractor as feature_extractor,
)
from keras_mixer.variants import VARIANTS as VARIANTS
from keras_mixer.weights.loading import load_weights as load_weights

"""MLP-Mixer (arXiv 2105.01601) for Keras 3: models, training, evaluation, export.

Models, layers and all that Keras reads from files are imported with the package; what needs more than Keras (`fit`,
`evaluate`, the exports) when it is first used, so that importing the package takes little longer than importing Keras.
"""

import importlib.metadata
from typing import TYPE_CHECKING

from keras_mixer.features import feature_extractor as feature_extractor
from keras_mixer.layers import MixerBlock as MixerBlock, MlpBlock as MlpBlock, PatchEmbed as PatchEmbed
from keras_mixer.mixer_model import MixerModel as MixerModel
from keras_mixer.models import (
    Mixer as Mixer,
    MixerB16 as MixerB16,
    MixerB32 as MixerB32,
    MixerH14 as MixerH14,
    MixerL16 as MixerL16,
    MixerL32 as MixerL32,
    MixerS16 as MixerS16,
    MixerS32 as MixerS32,
)
from keras_mixer.training import training_model as _registered  # noqa: F401  for files that Keras writes during `fit`
from keras_mixer.variants import VARIANTS as VARIANTS
from keras_mixer.weights.imagenet_classes import decode_predictions as decode_predictions
from keras_mixer.weights.layouts import save_official as save_official
from keras_mixer.weights.loading import load_weights as load_weights
from keras_mixer.weights.resolution import change_resolution as change_resolution

if TYPE_CHECKING:
    from keras_mixer.evaluation.accuracy import evaluate as evaluate
    from keras_mixer.evaluation.few_shot import few_shot as few_shot
    from keras_mixer.export.predictor import preprocess_image as preprocess_image
    from keras_mixer.export.runtimes import load as load
    from keras_mixer.export.saved_model import export_saved_model as export_saved_model
    from keras_mixer.export.tflite import export_tflite as export_tflite
    from keras_mixer.export.verified import export as export
    from keras_mixer.training.fit import fit as fit
    from keras_mixer.training.recipes import RECIPES as RECIPES

# `export` is a folder and a function. Python gives the name to the folder when it is imported: here, once and for all.
importlib.import_module("keras_mixer.export")
del globals()["export"]

_ON_FIRST_USE = {
    "RECIPES": "keras_mixer.training.recipes",
    "evaluate": "keras_mixer.evaluation.accuracy",
    "export": "keras_mixer.export.verified",
    "export_saved_model": "keras_mixer.export.saved_model",
    "export_tflite": "keras_mixer.export.tflite",
    "few_shot": "keras_mixer.evaluation.few_shot",
    "fit": "keras_mixer.training.fit",
    "load": "keras_mixer.export.runtimes",
    "preprocess_image": "keras_mixer.export.predictor",
}


def __getattr__(name):
    if name == "__version__":  # of the installed package
        return importlib.metadata.version("keras-mixer")
    if name not in _ON_FIRST_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ON_FIRST_USE[name]), name)


def __dir__():
    return sorted({*globals(), *_ON_FIRST_USE})

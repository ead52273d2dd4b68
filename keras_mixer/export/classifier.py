"""What every export starts from: a float32 classifier, and what its clients must know."""

import dataclasses
from typing import Any

import keras

from keras_mixer.data.preprocessing import EVALUATION_CROPS
from keras_mixer.models import class_names_of, evaluation_crop_of


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A model ready for export.

    Attributes:
        model: float32; images to probabilities.
        class_names: one for each class.
        evaluation_crop: how an image of any size is brought to the model's.
    """

    model: keras.Model
    class_names: tuple[str, ...]
    evaluation_crop: str

    @classmethod
    def of(cls, model, class_names=None, evaluation_crop=None) -> "Classifier":
        """Checks a model and fills in what it carries itself.

        Raises:
            ValueError: the model is no classifier, or the names or the crop do not fit it.
        """
        if len(model.output_shape) != 2 or len(model.input_shape) != 4:
            raise ValueError(
                f"Only a classifier can be exported: images (B, H, W, channels) to (B, classes). This model maps "
                f"{model.input_shape} to {model.output_shape}."
            )
        classes = model.output_shape[-1]
        names = tuple(class_names or class_names_of(model))
        if len(names) != classes:
            raise ValueError(f"{len(names)} class names were given for a model of {classes} classes.")
        crop = evaluation_crop or evaluation_crop_of(model)
        if crop not in EVALUATION_CROPS:
            raise ValueError(f"Unknown evaluation crop {crop!r}; valid ones are {', '.join(EVALUATION_CROPS)}.")
        return cls(_as_float32(model), names, crop)

    def description(self) -> dict[str, Any]:
        """What is written beside every export, as JSON."""
        return {
            "class_names": list(self.class_names),
            "evaluation_crop": self.evaluation_crop,
            "input_shape": list(self.model.input_shape[1:]),
            "pixel_range": [0, 255],
        }


def _as_float32(model):
    """The model itself, or a copy in float32: TFLite cannot run the operations of mixed precision.

    Source: verified on mixed_bfloat16, mixed_float16 and bfloat16 models; `clone_model` alone would keep the policy.
    """
    policies = {layer.dtype_policy.name for layer in model.layers}
    if policies == {"float32"}:
        return model

    def in_float32(layer):
        return layer.__class__.from_config({**layer.get_config(), "dtype": "float32"})

    copy = keras.models.clone_model(model, clone_function=in_float32)
    copy.set_weights(model.get_weights())
    return copy

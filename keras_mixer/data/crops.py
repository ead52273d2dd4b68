"""How an image of any size is brought to the input size of a model for evaluation, by name."""

from typing import Literal

EvaluationCrop = Literal["resize", "resize-crop", "resmall-crop"]
EVALUATION_CROPS: dict[EvaluationCrop, str] = {
    "resize": "resize to the input size, aspect ratio given up (vit_jax's evaluation)",
    "resize-crop": "resize to 8/7 of the input size (224 from 256), then central crop (Table 2)",
    "resmall-crop": "resize the short side to 8/7 of the input side (224 from 256), then central crop (Table 3)",
}

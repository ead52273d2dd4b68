"""How images are prepared, as plain data: recipes contain it and the input pipeline follows it.

Imports neither TensorFlow nor KerasCV, so that a recipe can be checked and `--help` printed without them.
"""

from typing import Literal

# Evaluation crops: how an image of any size becomes one of the model's input size.
EvaluationCrop = Literal["resize", "resize-crop", "resmall-crop"]
EVALUATION_CROPS: dict[EvaluationCrop, str] = {
    "resize": "resize to the input size, ignoring the aspect ratio (vit_jax's evaluation)",
    "resize-crop": "resize to 8/7 of the input size (256 for 224 px), then central crop (Table 2)",
    "resmall-crop": "resize the short side to 8/7 of the input side (256 for 224 px), then central crop (Table 3)",
}

# Source: appendix B of arXiv 2105.01601, all sixteen.
RANDAUGMENT_OPERATIONS = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color", "Contrast"),
    *("Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout", "SolarizeAdd"),
)

"""How images are prepared, as plain data: recipes contain it and the input pipeline follows it.

Imports neither TensorFlow nor KerasCV, so that a recipe can be checked and `--help` printed without them.
"""

import dataclasses
from typing import Literal

# Evaluation crops: how an image of any size becomes one of the model's input size.
EvaluationCrop = Literal["resize", "resize-crop", "resmall-crop"]
EVALUATION_CROPS: dict[EvaluationCrop, str] = {
    "resize": "resize to the input size, ignoring the aspect ratio (vit_jax's evaluation)",
    "resize-crop": "resize to 8/7 of the input size (224 from 256), then central crop (Table 2)",
    "resmall-crop": "resize the short side to 8/7 of the input side (224 from 256), then central crop (Table 3)",
}

# Source: appendix B of arXiv 2105.01601, all sixteen.
RANDAUGMENT_OPERATIONS = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "Color", "Contrast"),
    *("Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY", "Cutout", "SolarizeAdd"),
)


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes to training images. By default only the random crop and the flip.

    Attributes:
        crop_area: smallest and largest fraction of the image that the random crop covers.
        crop_aspect: smallest and largest width / height of the crop; None: that of the image.
        flip: flip half of the images left-right.
        randaugment_num_ops: number of RandAugment operations per image; 0 disables RandAugment.
        randaugment_level: strength of the operations, 0 to 20.
        randaugment_operations: names of the operations to draw from; None for the paper's sixteen.
        randaugment_fill: grey value for pixels that an operation leaves empty.
        mixup_alpha: Beta parameter of mixup; 0 disables it.
        cutmix_alpha: Beta parameter of CutMix; 0 disables it. With both, each batch gets one of the two, chosen at
            random.
    """

    crop_area: tuple[float, float] = (0.05, 1.0)
    crop_aspect: tuple[float, float] | None = (3 / 4, 4 / 3)
    flip: bool = True
    randaugment_num_ops: int = 0
    randaugment_level: float = 0.0
    randaugment_operations: tuple[str, ...] | None = None
    randaugment_fill: int = 128
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

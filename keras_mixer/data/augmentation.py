"""What happens to training images at random, as plain data: recipes contain it, the input pipeline follows it."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """The random changes of training images; none beyond the crop and the flip by default.

    Attributes:
        crop_area: smallest and largest fraction of the image that the random crop covers.
        crop_aspect: smallest and largest width / height of the crop; None: that of the image.
        flip: mirror half of the images left-right.
        randaugment_num_ops: RandAugment operations on each image; 0 leaves it out.
        randaugment_level: their strength, 0 to 20.
        randaugment_operations: their names, None for the paper's sixteen.
        randaugment_fill: grey value that appears where an image was moved away.
        mixup_alpha: Beta parameter of mixup; 0 leaves it out.
        cutmix_alpha: Beta parameter of CutMix; 0 leaves it out. With both, every other batch on average gets CutMix.
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

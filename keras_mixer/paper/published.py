"""Tables 2 and 3 of the paper as data.

Source: arXiv 2105.01601, version 4. Accuracies in percent, after fine-tuning if pre-trained on other data; images per
second on one TPUv3 core at the best batch size; pre-training cost in TPUv3-core-days.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PublishedResult:
    """One row of a table.

    Attributes:
        table: 2 or 3.
        model: name of the model.
        pretraining: images of the pre-training: "ImageNet", "ImageNet-21k", "JFT" or others.
        imagenet: top-1.
        real: top-1 on ReaL.
        average_5: mean top-1 over the five data sets.
        vtab: mean over the 19 tasks; Table 2 only.
        images_per_second: on one core.
        core_days: of pre-training.
        image_size: side in pixels; Table 3 only.
        epochs: of pre-training; Table 3 only.
    """

    table: int
    model: str
    pretraining: str
    imagenet: float
    real: float | None
    average_5: float | None
    vtab: float | None
    images_per_second: float | None
    core_days: float
    image_size: int | None = None
    epochs: int | None = None

    @property
    def family(self) -> str:
        """The first part of the name: "Mixer", "ViT", "BiT", ..."""
        return self.model.split("-")[0]


_I1K, _I21K, _JFT = "ImageNet", "ImageNet-21k", "JFT"

TABLE_2 = tuple(
    PublishedResult(2, *row)
    for row in (
        ("HaloNet", _I21K, 85.8, None, None, None, 120, 100),
        ("Mixer-L/16", _I21K, 84.15, 87.86, 93.91, 74.95, 105, 410),
        ("ViT-L/16", _I21K, 85.30, 88.62, 94.39, 72.72, 32, 180),
        ("BiT-R152x4", _I21K, 85.39, None, 94.04, 70.64, 26, 940),
        ("NFNet-F4+", _JFT, 89.2, None, None, None, 46, 1860),
        ("Mixer-H/14", _JFT, 87.94, 90.18, 95.71, 75.33, 40, 1010),
        ("BiT-R152x4", _JFT, 87.54, 90.54, 95.33, 76.29, 26, 9900),
        ("ViT-H/14", _JFT, 88.55, 90.72, 95.97, 77.63, 15, 2300),
        ("MPL", "unlabelled images", 90.0, 91.12, None, None, None, 20480),
        ("ALIGN", "weakly labelled images", 88.64, None, None, 79.99, 15, 14820),
    )
)
TABLE_3 = tuple(
    PublishedResult(3, model, data, imagenet, real, average, None, speed, days, side, epochs)
    for model, side, data, epochs, imagenet, real, average, speed, days in (
        ("Mixer-B/16", 224, _I1K, 300, 76.44, 82.36, 88.33, 1384, 10),
        ("ViT-B/16", 224, _I1K, 300, 79.67, 84.97, 90.79, 861, 20),
        ("Mixer-L/16", 224, _I1K, 300, 71.76, 77.08, 87.25, 419, 40),
        ("ViT-L/16", 224, _I1K, 300, 76.11, 80.93, 89.66, 280, 50),
        ("Mixer-B/16", 224, _I21K, 300, 80.64, 85.80, 92.50, 1384, 150),
        ("ViT-B/16", 224, _I21K, 300, 84.59, 88.93, 94.16, 861, 180),
        ("Mixer-L/16", 224, _I21K, 300, 82.89, 87.54, 93.63, 419, 410),
        ("ViT-L/16", 224, _I21K, 300, 84.46, 88.35, 94.49, 280, 550),
        ("Mixer-L/16", 448, _I21K, 300, 83.91, 87.75, 93.86, 105, 410),
        ("Mixer-S/32", 224, _JFT, 5, 68.70, 75.83, 87.13, 11489, 10),
        ("Mixer-B/32", 224, _JFT, 7, 75.53, 81.94, 90.99, 4208, 50),
        ("Mixer-S/16", 224, _JFT, 5, 73.83, 80.60, 89.50, 3994, 30),
        ("BiT-R50x1", 224, _JFT, 7, 73.69, 81.92, None, 2159, 80),
        ("Mixer-B/16", 224, _JFT, 7, 80.00, 85.56, 92.60, 1384, 80),
        ("Mixer-L/32", 224, _JFT, 7, 80.67, 85.62, 93.24, 1314, 120),
        ("BiT-R152x1", 224, _JFT, 7, 79.12, 86.12, None, 932, 140),
        ("BiT-R50x2", 224, _JFT, 7, 78.92, 86.06, None, 890, 140),
        ("BiT-R152x2", 224, _JFT, 14, 83.34, 88.90, None, 356, 580),
        ("Mixer-L/16", 224, _JFT, 7, 84.05, 88.14, 94.51, 419, 230),
        ("Mixer-L/16", 224, _JFT, 14, 84.82, 88.48, 94.77, 419, 450),
        ("ViT-L/16", 224, _JFT, 14, 85.63, 89.16, 95.21, 280, 650),
        ("Mixer-H/14", 224, _JFT, 14, 86.32, 89.14, 95.49, 194, 1010),
        ("BiT-R200x3", 224, _JFT, 14, 84.73, 89.58, None, 141, 1780),
        ("Mixer-L/16", 448, _JFT, 14, 86.78, 89.72, 95.13, 105, 450),
        ("ViT-H/14", 224, _JFT, 14, 86.65, 89.56, 95.57, 87, 2300),
        ("ViT-L/16", 512, _JFT, 14, 87.76, 90.54, 95.63, 32, 650),
    )
)

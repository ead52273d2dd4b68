"""The names of RandAugment's operations, for settings that are checked before TensorFlow is imported."""

# Source: appendix B of arXiv 2105.01601, all sixteen.
RANDAUGMENT_OPERATIONS = (
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "Posterize",
    "Solarize",
    "Color",
    "Contrast",
    "Brightness",
    "Sharpness",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Cutout",
    "SolarizeAdd",
)

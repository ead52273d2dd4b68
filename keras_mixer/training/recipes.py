"""The recipes by name. A comment says what each is for; docs/experiments.md has what was measured.

Source: Table 4 and section 3 of arXiv 2105.01601; big_vision's configs/mlp_mixer_i1k.py for what the paper omits.
"""

import dataclasses

from keras_mixer.training.recipe import Recipe

# One line for each topic: data, model, length and loss, optimizer, augmentation.
# fmt: off
DIGITS = Recipe(
    name="digits", data="digits", image_size=16, evaluation_crop="resize",
    variant="tiny/4",
    epochs=70, global_batch_size=64, label_smoothing=0.1,
    learning_rate=2e-3, warmup_steps=100, weight_decay=0.05,
    crop_area=(0.9, 1.0), crop_aspect=(0.9, 1.1), flip=False, mixup_alpha=0.1,
    randaugment_num_ops=1, randaugment_level=3.0, randaugment_fill=0,
    randaugment_operations=("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"),
)
FASHION_MNIST = Recipe(
    name="fashion_mnist", data="fashion_mnist", image_size=28, evaluation_crop="resize",
    variant="tiny/4", num_blocks=8, hidden_dim=128, channels_mlp_dim=256,
    epochs=48, global_batch_size=128, label_smoothing=0.1,
    optimizer="muon", learning_rate=5e-3, warmup_steps=600, weight_decay=0.1,
    crop_area=(0.7, 1.0), crop_aspect=(0.85, 1.18), mixup_alpha=0.1, cutmix_alpha=1.0,
)
IMAGENET_1K = Recipe(
    name="imagenet1k_b16", data="imagenet2012", train_split="train[:99%]", test_split="validation",
    variant="B/16", drop_path_rate=0.1, precision="mixed_bfloat16",
    epochs=300, global_batch_size=4096, loss="sigmoid", head_bias=-6.9,
    learning_rate=1e-3, schedule="linear", warmup_steps=10_000, weight_decay=0.1,
    randaugment_num_ops=2, randaugment_level=15.0, mixup_alpha=0.5,
)
IMAGENET_21K = dataclasses.replace(
    IMAGENET_1K, name="imagenet21k_b16", data="imagenet21k", test_split="train[99%:]",
    head_bias=-10.0, randaugment_level=10.0, mixup_alpha=0.2,
)
JFT = dataclasses.replace(
    IMAGENET_1K, name="jft300m", data="jft300m", test_split="train[99%:]",
    drop_path_rate=0.0, head_bias=-10.0, weight_decay=0.03,
    randaugment_num_ops=0, randaugment_level=0.0, mixup_alpha=0.0,
)
FINETUNE = Recipe(
    name="finetune", data="cifar10",
    variant="B/16", weights="imagenet21k", precision="mixed_bfloat16",
    steps=10_000, global_batch_size=512,
    optimizer="sgd", learning_rate=0.03, warmup_steps=500,
)
SCRATCH_SMALL = Recipe(
    name="scratch_small", data="cifar10", image_size=32, evaluation_crop="resize",
    variant="tiny/4", num_blocks=8, hidden_dim=256, tokens_mlp_dim=128, channels_mlp_dim=1024, drop_path_rate=0.1,
    epochs=200, global_batch_size=512, fit_small_data=True, label_smoothing=0.1,
    learning_rate=1e-3, warmup_steps=1000, weight_decay=0.1,
    crop_area=(0.25, 1.0), randaugment_num_ops=2, randaugment_level=10.0, mixup_alpha=0.2,
)
_ALL = (
    # scikit-learn's 1,797 handwritten digits, which come with it. Sizes and augmentation are ours.
    DIGITS,
    # 70,000 photographs of clothes. Sizes and settings are ours.
    FASHION_MNIST,
    # A smaller Mixer for the same, in half the time.
    dataclasses.replace(
        FASHION_MNIST, name="fashion_mnist_small", num_blocks=6, hidden_dim=96, channels_mlp_dim=192, epochs=50,
        optimizer="adamw", learning_rate=2e-3, warmup_steps=500,
        crop_area=(0.8, 1.0), crop_aspect=(0.9, 1.1), cutmix_alpha=0.0,
    ),
    # A few steps, to check that an installation works.
    dataclasses.replace(DIGITS, name="smoke", epochs=2, warmup_steps=5, xla_on_cpu=False),
    # Section 3: SGD with momentum, no decay, cosine. Steps: ImageNet 20,000; CIFAR 10,000; Pets and Flowers 500 (with
    # 100 of warm-up); VTAB 2,500.
    FINETUNE,
    # Images of 32 px from scratch. Sizes and settings are ours.
    SCRATCH_SMALL,
    # The ImageNet rows of Table 4; loss and head bias from big_vision.
    IMAGENET_1K,
    dataclasses.replace(IMAGENET_1K, name="imagenet1k_b16_60ep", epochs=60),  # big_vision's short mode
    dataclasses.replace(IMAGENET_1K, name="imagenet1k_l16", variant="L/16"),  # it overfits and is worse than B/16
    # The ImageNet-21k rows of Table 4; TensorFlow Datasets has no such set, so pass --data.
    IMAGENET_21K,
    dataclasses.replace(IMAGENET_21K, name="imagenet21k_l16", variant="L/16", randaugment_level=20.0, mixup_alpha=0.5),
    # The JFT-300M rows of Table 4, for any large data set of your own; loss and head bias are our guess.
    *(
        dataclasses.replace(JFT, name=f"jft300m_{name}", variant=variant, epochs=epochs, learning_rate=learning_rate)
        for name, variant, epochs, learning_rate in (
            ("s32", "S/32", 5, 3e-3), ("s16", "S/16", 5, 3e-3), ("b32", "B/32", 7, 3e-3), ("b16", "B/16", 7, 3e-3),
            ("l32", "L/32", 7, 1e-3), ("l16", "L/16", 7, 1e-3), ("l16_14ep", "L/16", 14, 1e-3),
            ("h14", "H/14", 14, 1e-3),
        )
    ),
)
# fmt: on
RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}


def resolve(recipe: Recipe | str, **overrides) -> Recipe:
    """A recipe, given by name or as it is, with fields replaced; ValueError lists the valid recipes."""
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ValueError(f"Unknown recipe {recipe!r}; valid ones are {', '.join(RECIPES)}.")
        recipe = RECIPES[recipe]
    return dataclasses.replace(recipe, **overrides)

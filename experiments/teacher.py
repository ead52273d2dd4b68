"""The teacher of docs/experiments.md: a small convolutional network on Fashion-MNIST, and the average of finished ones.

Rerun a command to resume; `--average RUN...` writes the average of finished runs.
"""

import dataclasses
from pathlib import Path

import keras
import tyro
from keras import layers

from experiments.networks import open_model
from experiments.training import RECIPES, load_recipe_source, train

SHAPE = (28, 28, 3)
CHANGES = {"holdout": 1 / 12, "optimizer": "adamw", "learning_rate": 2e-3, "warmup_steps": 400, "label_smoothing": 0.05}
CHANGES |= {"crop_area": (0.7, 1.0), "crop_aspect": (3 / 4, 4 / 3), "mixup_alpha": 0.0, "cutmix_alpha": 0.0}


def network(classes=10):
    """`(B, 28, 28, 3) -> (B, classes)`: pixels in [0, 255] to logits; 289,642 parameters."""
    inputs = keras.Input(SHAPE)
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    for stage, width in enumerate((32, 64, 128)):
        for _ in range(2):
            x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.MaxPooling2D()(x) if stage < 2 else layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes)(x))


def average_of(runs):
    """The mean of the probabilities of finished runs, as a classifier `(B, 28, 28, 3) -> (B, classes)` of logits."""
    inputs = keras.Input(SHAPE)
    models = [open_model(run) for run in runs]
    for number, model in enumerate(models):
        model.name = f"{model.name}_{number}"
    logits = keras.ops.log(layers.Average()([model(inputs) for model in models]) + 1e-7)
    return keras.Model(inputs, layers.Activation("linear")(logits))  # without activation, a teacher must end in logits


def main(output: tyro.conf.Positional[Path], seed: int = 0, epochs: int = 20, average: tuple[Path, ...] = ()):
    """Train one network on Fashion-MNIST, or write the average of finished ones.

    Args:
        output: folder of the run, or .keras file of the average.
        seed: of weights, data order and augmentation.
        epochs: passes over the 55,000 training images that are not held out.
        average: folders of finished runs.
    """
    if average:
        return average_of(average).save(output)
    recipe = dataclasses.replace(RECIPES["fashion_mnist"], **CHANGES)
    source = load_recipe_source(recipe)
    keras.utils.set_random_seed(seed)
    steps = epochs * (source.train.size // recipe.global_batch_size)
    print(f"{train(network(), recipe, source, steps=steps, points=epochs, seed=seed, workdir=output)[-1]:.2%}")


if __name__ == "__main__":
    tyro.cli(main)

"""The teacher of docs/experiments.md: a small convolutional network on Fashion-MNIST, and ensembles of finished ones.

python benchmarks/teacher.py runs/teacher-0 --seed 0   # rerun to resume
python benchmarks/teacher.py runs/teacher.keras --average runs/teacher-0 runs/teacher-1
"""

import argparse
import dataclasses
from pathlib import Path

import keras
from keras import layers

from keras_mixer.training.fit import fit_model
from keras_mixer.training.recipe import Recipe

RECIPE = Recipe(
    name="teacher",
    data="fashion_mnist",
    holdout=1 / 12,
    image_size=28,
    epochs=20,
    global_batch_size=128,
    label_smoothing=0.05,
    learning_rate=2e-3,
    warmup_steps=400,
    weight_decay=0.1,
    crop_area=(0.7, 1.0),
    evaluation_crop="resize",
    devices="1",
)


def network(classes=10):
    """`(B, 28, 28, 3) -> (B, classes)`: pixels in [0, 255] to logits; 289,642 parameters."""
    inputs = keras.Input(RECIPE.input_shape())
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    for stage, width in enumerate((32, 64, 128)):
        for _ in range(2):
            x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.MaxPooling2D()(x) if stage < 2 else layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes)(x))


def average(runs):
    """The mean of the probabilities of finished runs, as a classifier `(B, 28, 28, 3) -> (B, classes)` of logits."""
    inputs = keras.Input(RECIPE.input_shape())
    models = [keras.saving.load_model(run / "model.keras") for run in runs]
    for number, model in enumerate(models):
        model.name = f"{model.name}_{number}"
    mean = layers.Average()([model(inputs) for model in models])
    return keras.Model(inputs, keras.ops.log(mean + 1e-7))


def main():
    """Trains one network, or writes the average of multiple ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=RECIPE.epochs)
    parser.add_argument("--average", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.average:
        average(arguments.average).save(arguments.output)
        return
    recipe = dataclasses.replace(RECIPE, seed=arguments.seed, epochs=arguments.epochs)
    keras.utils.set_random_seed(arguments.seed)
    result = fit_model(recipe, workdir=arguments.output, model=network())
    print(f"{result.metrics['accuracy']:.2%}")


if __name__ == "__main__":
    main()

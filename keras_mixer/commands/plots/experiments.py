"""Experiments that train: each keeps its results in a JSON file and draws them."""

from pathlib import Path
from typing import Literal

from keras_mixer.analysis.figures import check_picture_path, write_figure
from keras_mixer.analysis.permutation import permutation_experiment, permutation_figure
from keras_mixer.analysis.subsets import with_training_images
from keras_mixer.commands.terminal import print_table
from keras_mixer.training.loop import load_recipe_source
from keras_mixer.training.recipes import resolve


def _recipe(name, **changes):
    return resolve(name, **{key: value for key, value in changes.items() if value is not None})


def permutation(
    output: Path,
    recipe: str = "digits",
    data: str | None = None,
    data_dir: str | None = None,
    image_size: int = 32,
    patch_size: int = 8,
    training_images: int | None = None,
    steps: int = 300,
    points: int = 5,
    seeds: tuple[int, ...] = (0, 1, 2),
    networks: tuple[Literal["mixer", "resnet"], ...] = ("mixer", "resnet"),
):
    """Fig 4: train a Mixer and a ResNet on images as they are, with patches shuffled, with all pixels shuffled.

    Args:
        output: the .png or .svg file to write; the results go into a .json file beside it and are taken up again.
        recipe: sizes of the Mixer, augmentation and optimisation.
        data: image folder or TensorFlow Datasets name; the recipe's own by default.
        data_dir: folder with prepared TensorFlow Datasets.
        image_size: side in pixels; the ResNet needs at least 32.
        patch_size: side of the Mixer's patches in pixels.
        training_images: how many to train on, evenly from each class; all by default.
        steps: optimizer steps of each training.
        points: how often to measure each.
        seeds: each gives initial weights, order, augmentation and permutations.
        networks: which to train.
    """
    check_picture_path(output)
    settings = _recipe(recipe, data=data, data_dir=data_dir, image_size=image_size, patch_size=patch_size)
    options = {"steps": steps, "points": points, "seeds": seeds, "networks": networks}
    source = load_recipe_source(settings)
    if training_images:
        source = with_training_images(source, training_images)
    results = permutation_experiment(settings, source, output.with_suffix(".json"), **options)
    rows = [
        (network, kind, f"{_mean(curves):.2%}", "  ".join(f"{curve[-1]:.2%}" for curve in curves))
        for network, inputs in results.items()
        for kind, curves in inputs.items()
    ]
    print_table(("network", "input", "accuracy", f"of seeds {', '.join(map(str, seeds))}"), rows)
    print(f"\nWritten: {write_figure(permutation_figure(results, steps), output)}")


def _mean(curves):
    return sum(curve[-1] for curve in curves) / len(curves)

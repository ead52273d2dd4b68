"""Experiments that train and store their results in a JSON file: vtab, plot permutation, data-size, untied."""

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np

from keras_mixer.cli.terminal import Model, print_table
from keras_mixer.data.image_files import naming_damaged_files
from keras_mixer.export.predictor import load_mixer
from keras_mixer.inspect.figures import check_figure_path, write_figure
from keras_mixer.paper.data_size import data_size_experiment, data_size_figure
from keras_mixer.paper.networks import NETWORKS
from keras_mixer.paper.permutation import permutation_experiment, permutation_figure
from keras_mixer.paper.subsets import with_training_images
from keras_mixer.paper.untied import untied_experiment, untied_figure, untied_parameters
from keras_mixer.paper.vtab import VtabSettings, vtab_1k
from keras_mixer.training.inputs import load_recipe_source
from keras_mixer.training.recipe import DeviceChoice
from keras_mixer.training.recipes import resolve
from keras_mixer.variants import VARIANTS


def vtab(
    model: Model,
    workdir: Path,
    data_dir: str | None = None,
    tasks: tuple[str, ...] | None = None,
    settings: VtabSettings = VtabSettings(),  # noqa: B008 - frozen
    devices: DeviceChoice = "auto",
    download: bool = False,
):
    """Fine-tune a model on each of the 19 tasks with 1000 examples; rerun the same command to resume.

    Args:
        model: a finished run directory or .keras file with pre-trained weights.
        workdir: folder of the report vtab.json and of the run in progress.
        data_dir: folder of prepared TensorFlow Datasets.
        tasks: names of tasks; all 19 by default.
        settings: of the fine-tuning.
        devices: devices to train on: auto, cpu, gpu, tpu, or the number of devices of the best kind, from 1.
        download: download and prepare what is missing and needs no manual download.
    """
    options = {"tasks": tasks, "data_dir": data_dir, "settings": settings, "devices": devices, "download": download}
    report = vtab_1k(load_mixer(model), workdir, name=str(model), **options)
    if report.tasks:
        rate = "median of seeds" if len(dataclasses.asdict(settings)["seeds"]) > 1 else "accuracy"
        print_table(("task", rate, "test images", "input", "rate"), report.table())
    if report.absent:
        print("\nNot measured:")
        for name, reason in report.absent.items():
            print(f"  {name}: {reason}")


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
    skip_corrupt: bool = False,
):
    """Fig 4: train a Mixer and a ResNet on original images, with shuffled patches, and with all pixels shuffled.

    Args:
        output: the .png or .svg file to write; a .json file next to it stores the results, so that the command resumes.
        recipe: sizes of the Mixer, augmentation and optimization.
        data: image folder or TensorFlow Datasets name; the recipe's own by default.
        data_dir: folder of prepared TensorFlow Datasets.
        image_size: side in pixels; the ResNet needs at least 32.
        patch_size: side of the Mixer's patches in pixels.
        training_images: number of training images, equally many per class; all by default.
        steps: optimizer steps of each training.
        points: number of measurements per training.
        seeds: seeds of weights, data order, augmentation and permutations; one training each.
        networks: networks to train.
        skip_corrupt: leave out image files that cannot be decoded.
    """
    check_figure_path(output)
    settings = _recipe(recipe, data=data, data_dir=data_dir, image_size=image_size, patch_size=patch_size)
    options = {"steps": steps, "points": points, "seeds": seeds, "networks": networks}
    source = load_recipe_source(settings, skip_corrupt)
    if training_images:
        source = with_training_images(source, training_images)
    with naming_damaged_files(source.train, source.test, crop=settings.evaluation_crop):
        results = permutation_experiment(settings, source, output.with_suffix(".json"), **options)
    rows = [
        (network, kind, f"{_mean(curves):.2%}", _percentages(curve[-1] for curve in curves))
        for network, inputs in results.items()
        for kind, curves in inputs.items()
    ]
    print_table(("network", "input", "accuracy", f"of seeds {', '.join(map(str, seeds))}"), rows)
    print(f"\nWritten: {write_figure(permutation_figure(results, steps), output)}")


def data_size(
    output: Path,
    workdir: Path,
    recipe: str = "digits",
    data: str | None = None,
    data_dir: str | None = None,
    fractions: tuple[float, ...] = (0.05, 0.1, 0.3, 1.0),
    steps: int | None = None,
    image_size: int | None = None,
    seeds: tuple[int, ...] = (0,),
    networks: tuple[Literal["mixer", "resnet", "vit"], ...] = ("mixer",),
    skip_corrupt: bool = False,
):
    """Fig 2, right: train a recipe on parts of its training data, each for the same number of steps.

    Args:
        output: the .png or .svg file to write; must not exist.
        workdir: folder of the runs and of data_size.json; rerun the same command to resume.
        recipe: any recipe.
        data: image folder or TensorFlow Datasets name; the recipe's own by default.
        data_dir: folder of prepared TensorFlow Datasets.
        fractions: fractions of the training data; the paper's are 0.03 0.1 0.3 1.
        steps: optimizer steps of each training; by default those of the recipe on all data.
        image_size: side in pixels; the ResNet needs at least 32.
        seeds: one training each.
        networks: networks to train.
        skip_corrupt: leave out image files that cannot be decoded.
    """
    check_figure_path(output)
    settings = _recipe(recipe, data=data, data_dir=data_dir, steps=steps, image_size=image_size)
    options = {"fractions": fractions, "seeds": seeds, "networks": networks, "skip_corrupt": skip_corrupt}
    results, sizes = data_size_experiment(settings, workdir, **options)
    rows = [
        (NETWORKS[name], f"{fraction:.0%}", f"{sizes[fraction]:,}", f"{np.mean(values):.2%}", _percentages(values))
        for name, accuracies in results.items()
        for fraction, values in accuracies.items()
    ]
    print_table(("network", "training data", "images", "accuracy", f"of seeds {', '.join(map(str, seeds))}"), rows)
    print(f"\nWritten: {write_figure(data_size_figure(results, sizes), output)}")


def untied(
    output: Path,
    recipe: str = "digits",
    data: str | None = None,
    data_dir: str | None = None,
    groups: tuple[int, ...] = (1, 4, 96),
    training_images: int | None = None,
    steps: int = 300,
    points: int = 5,
    seeds: tuple[int, ...] = (0, 1, 2),
    skip_corrupt: bool = False,
):
    """Appendix A: train Mixers whose token MLPs are shared by all channels, by groups of channels, or not at all.

    Args:
        output: the .png or .svg file to write; a .json file next to it stores the results, so that the command resumes.
        recipe: sizes, augmentation and optimization.
        data: image folder or TensorFlow Datasets name; the recipe's own by default.
        data_dir: folder of prepared TensorFlow Datasets.
        groups: numbers of token MLPs per block; 1 is the paper's Mixer, the number of channels gives one per channel.
        training_images: number of training images, equally many per class; all by default.
        steps: optimizer steps of each training.
        points: number of measurements per training.
        seeds: one training each.
        skip_corrupt: leave out image files that cannot be decoded.
    """
    check_figure_path(output)
    settings = _recipe(recipe, data=data, data_dir=data_dir)
    source = load_recipe_source(settings, skip_corrupt)
    if training_images:
        source = with_training_images(source, training_images)
    options = {"groups": groups, "steps": steps, "points": points, "seeds": seeds}
    with naming_damaged_files(source.train, source.test, crop=settings.evaluation_crop):
        results = untied_experiment(settings, source, output.with_suffix(".json"), **options)
    sizes = (settings.architecture(), settings.input_shape(), len(source.class_names))
    parameters = {count: untied_parameters(sizes[0], count, *sizes[1:]) for count in groups}
    rows = [
        (str(count), f"{parameters[count]:,}", f"{_mean(curves):.2%}", _percentages(curve[-1] for curve in curves))
        for count, curves in results.items()
    ]
    print_table(("token MLPs per block", "parameters", "accuracy", f"of seeds {', '.join(map(str, seeds))}"), rows)
    print("\nParameters of the published sizes, 224 px, 1000 classes:")
    published = [
        (
            name,
            f"{variant.parameters():,}",
            f"{untied_parameters(variant, 4):,}",
            f"{untied_parameters(variant, variant.hidden_dim):,}",
        )
        for name, variant in VARIANTS.items()
    ]
    print_table(("variant", "tied", "4 groups", "one per channel"), published)
    print(f"\nWritten: {write_figure(untied_figure(results, parameters), output)}")


def _percentages(values):
    return "  ".join(f"{value:.2%}" for value in values)


def _mean(curves):
    return sum(curve[-1] for curve in curves) / len(curves)

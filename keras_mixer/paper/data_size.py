"""Accuracy over the amount of training data for equal numbers of steps (Fig 2, right, of the paper).

Source: section 3 of arXiv 2105.01601: 3, 10, 30 and 100 % of JFT-300M for the same number of steps. The paper also
stops early by a validation set, and reports 5-shot accuracy on ImageNet; neither is done here.
"""

import dataclasses
import re
from pathlib import Path

import numpy as np

from keras_mixer.data.splits import Source
from keras_mixer.files import atomic_write
from keras_mixer.inspect.figures import COLOURS, canvas
from keras_mixer.paper.resumable_results import ResumableResults
from keras_mixer.paper.subsets import draw
from keras_mixer.training.inputs import load_recipe_source
from keras_mixer.training.loop import fit
from keras_mixer.training.recipe import Recipe


def data_size_experiment(recipe: Recipe, workdir, *, fractions=(0.03, 0.1, 0.3, 1.0), seeds=(0,), log=print):
    """Trains a recipe on subsets of its training data, each for as many steps as on all of it.

    Args:
        recipe: any recipe; its steps, or epochs on all data, apply to every subset.
        workdir: folder of the runs and of `data_size.json`; a stopped experiment resumes.
        fractions: fractions of the training data, in (0, 1].
        seeds: one training each.
        log: called with each line of text for the user.

    Returns:
        {fraction: test accuracies of the seeds}, and the number of training images of each fraction.

    Raises:
        ValueError: a fraction is out of range, or leaves fewer images than a batch.
    """
    wrong = [fraction for fraction in fractions if not 0 < fraction <= 1]
    if wrong:
        raise ValueError(f"Expected fractions in (0, 1], got {wrong}.")
    workdir = Path(workdir)
    source = load_recipe_source(recipe)
    sizes = {fraction: round(source.train.size * fraction) for fraction in fractions}
    smallest = min(sizes.values())
    if smallest < recipe.global_batch_size:
        raise ValueError(
            f"The smallest subset has {smallest} images, a batch {recipe.global_batch_size}. Lower --global-batch-size "
            "or leave out the fraction."
        )
    steps = recipe.total_steps(source.train.size)
    described = {name: value for name, value in dataclasses.asdict(recipe).items() if name != "seed"}
    stored = ResumableResults(workdir / "data_size.json", {"recipe": described, "steps": steps})
    results: dict[float, list[float]] = {fraction: [] for fraction in fractions}
    for fraction, count in sizes.items():
        part = part_of(recipe, source, count, workdir / "data")
        for seed in seeds:
            case = dataclasses.replace(part, steps=steps, seed=seed)
            folder = workdir / f"{count}_images_seed_{seed}"

            def train(case=case, folder=folder):
                return fit(case, workdir=folder, log=lambda line: None).metrics["accuracy"]

            results[fraction].append(stored.result(folder.name, train))
            log(f"{count:,} training images, seed {seed}: {results[fraction][-1]:.2%}")
    return results, sizes


def part_of(recipe: Recipe, source: Source, count, folder) -> Recipe:
    """The recipe on `count` of its training images.

    For TensorFlow Datasets the split is sliced (their files are in random order). For the bundled digits and image
    folders, the images are written to a new folder, equally many per class, with all test images.

    Raises:
        ValueError: the training split of the recipe does not start at the first image.
    """
    if count == source.train.size:
        return recipe
    if recipe.data != "digits" and not source.train.files:
        cut = re.fullmatch(r"(\w+)(\[:[^:\]]+\])?", recipe.train_split)
        if cut is None:
            raise ValueError(f"Expected a training split that starts at the first image, got {recipe.train_split!r}.")
        return dataclasses.replace(recipe, train_split=f"{cut[1]}[:{count}]")
    place = Path(folder) / f"{count}_images"
    if not place.exists():
        with atomic_write(place) as temporary:
            _write(source, source.train, draw(source.train.labels(), count), temporary / "train")
            _write(source, source.test, range(source.test.size), temporary / "test")
    return dataclasses.replace(recipe, data=str(place), train_split="train", test_split="test")


def data_size_figure(results, sizes):
    """Test accuracy over the number of training images: the mean over the seeds, and one dot per seed.

    Args:
        results: {fraction: accuracies}.
        sizes: {fraction: number of images}.
    """
    figure, ax = canvas(6.0, 4.2)
    places = [sizes[fraction] for fraction in results]
    ax.plot(places, [np.mean(values) for values in results.values()], "-", color=COLOURS[0], linewidth=2)
    for place, values in zip(places, results.values(), strict=True):
        ax.plot([place] * len(values), values, "o", color=COLOURS[0], markersize=4, alpha=0.7)
    ax.set(xscale="log", xlabel="training images", ylabel="test accuracy", title="equal steps")
    ax.set_xticks(places, [f"{place:,}\n{fraction:.0%}" for fraction, place in zip(results, places, strict=True)])
    ax.minorticks_off()
    ax.grid(alpha=0.25)
    return figure


def _write(source, split, indices, folder):
    """Writes image files, one folder per class; a class without images gets an empty folder."""
    wanted = {int(index) for index in indices}
    for name in source.class_names:
        (folder / name).mkdir(parents=True)
    for i, element in enumerate(split.elements):
        if i not in wanted:
            continue
        if split.files:
            original = Path(split.files[i])
            target = folder / source.class_names[int(element["label"])] / f"{i:07}{original.suffix}"
            target.symlink_to(original.resolve())
        else:
            example = split.read(element)
            target = folder / source.class_names[int(example["label"])] / f"{i:07}.png"
            target.write_bytes(example["image"].numpy())

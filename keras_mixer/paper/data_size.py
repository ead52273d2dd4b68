"""Accuracy against the amount of training data under equal steps (Fig 2, right, of the paper).

Source: section 3 of arXiv 2105.01601: 3, 10, 30 and 100 % of JFT-300M for the same number of steps. The paper also
stops early by a validation set, and reports 5-shot accuracy on ImageNet; neither is done here.
"""

import dataclasses
import re
from pathlib import Path

import numpy as np

from keras_mixer.data.sources import Source
from keras_mixer.files import atomic_write
from keras_mixer.inspect.figures import COLOURS, canvas
from keras_mixer.paper.resumable_results import ResumableResults
from keras_mixer.paper.subsets import draw
from keras_mixer.training.inputs import load_recipe_source
from keras_mixer.training.loop import fit
from keras_mixer.training.recipe import Recipe


def data_size_experiment(recipe: Recipe, workdir, *, fractions=(0.03, 0.1, 0.3, 1.0), seeds=(0,), log=print):
    """Trains a recipe on parts of its training data, each as many steps as on all of it.

    Args:
        recipe: any recipe; its steps, or epochs on all data, hold for every part.
        workdir: folder of the runs and of `data_size.json`; a stopped experiment goes on.
        fractions: shares of the training data, in (0, 1].
        seeds: one training for each.
        log: called with each line of text for the user.

    Returns:
        {fraction: test accuracies of the seeds}, and the number of training images of each fraction.

    Raises:
        ValueError: a fraction is out of range, or leaves fewer images than a batch holds.
    """
    wrong = [fraction for fraction in fractions if not 0 < fraction <= 1]
    if wrong:
        raise ValueError(f"Fractions lie in (0, 1], unlike {wrong}.")
    workdir = Path(workdir)
    source = load_recipe_source(recipe)
    sizes = {fraction: round(source.train.size * fraction) for fraction in fractions}
    smallest = min(sizes.values())
    if smallest < recipe.global_batch_size:
        raise ValueError(
            f"The smallest part has {smallest} images, a batch {recipe.global_batch_size}; lower --global-batch-size "
            "or leave the fraction out."
        )
    steps = recipe.steps or source.train.size // recipe.global_batch_size * recipe.epochs
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

    A data set of TensorFlow Datasets is cut by its split (their files are in random order). Of bundled digits or an
    image folder, the images are written into a new folder, evenly from each class; the test images are all there.

    Raises:
        ValueError: the recipe's own training split does not begin at the beginning.
    """
    if count == source.train.size:
        return recipe
    if recipe.data != "digits" and not source.train.files:
        cut = re.fullmatch(r"(\w+)(\[:[^:\]]+\])?", recipe.train_split)
        if cut is None:
            raise ValueError(f"The training split {recipe.train_split!r} must begin at the beginning to be cut.")
        return dataclasses.replace(recipe, train_split=f"{cut[1]}[:{count}]")
    place = Path(folder) / f"{count}_images"
    if not place.exists():
        with atomic_write(place) as temporary:
            _write(source, source.train, draw(source.train.labels(), count), temporary / "train")
            _write(source, source.test, range(source.test.size), temporary / "test")
    return dataclasses.replace(recipe, data=str(place), train_split="train", test_split="test")


def data_size_figure(results, sizes):
    """Test accuracy over the number of training images: the mean of the seeds, and each seed as a dot.

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
    """Image files, one folder a class; every class folder is there, even an empty one."""
    wanted = {int(index) for index in indices}
    for name in source.class_names:
        (folder / name).mkdir(parents=True)
    for i, element in enumerate(split.elements):
        if i not in wanted:
            continue
        if split.files:
            original = split.files[i]
            target = folder / source.class_names[int(element["label"])] / f"{i:07}{original.suffix}"
            target.symlink_to(original.resolve())
        else:
            example = split.read(element)
            target = folder / source.class_names[int(example["label"])] / f"{i:07}.png"
            target.write_bytes(example["image"].numpy())

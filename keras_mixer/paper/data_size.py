"""Accuracy over the amount of training data for equal numbers of steps (Fig 2, right, of the paper).

Source: section 3 of arXiv 2105.01601: 3, 10, 30 and 100 % of JFT-300M for the same number of steps. The paper also
stops early by a validation set, and reports 5-shot accuracy on ImageNet; neither is done here.
"""

import dataclasses
import itertools
import re
from pathlib import Path

import numpy as np

from keras_mixer.data.splits import Source
from keras_mixer.inspect.figures import COLOURS, canvas
from keras_mixer.paper.networks import NETWORKS, build_network, on_its_own_terms
from keras_mixer.paper.resumable_results import ResumableResults
from keras_mixer.paper.subsets import with_training_images
from keras_mixer.training.fit import fit_model
from keras_mixer.training.inputs import load_recipe_source
from keras_mixer.training.recipe import Recipe


def data_size_experiment(
    recipe: Recipe,
    workdir,
    *,
    fractions=(0.03, 0.1, 0.3, 1.0),
    seeds=(0,),
    networks=("mixer",),
    skip_corrupt=False,
    log=print,
):
    """Trains a recipe on subsets of its training data, each for as many steps as on all of it.

    Args:
        recipe: any recipe; its steps, or epochs on all data, apply to every subset.
        workdir: folder of the runs and of `data_size.json`; a stopped experiment resumes.
        fractions: fractions of the training data, in (0, 1].
        seeds: one training each.
        networks: which of `paper.networks.NETWORKS`; the recipe's optimization and augmentation are those of all.
        skip_corrupt: leave out image files that cannot be decoded.
        log: called with each line of text for the user.

    Returns:
        {network: {fraction: test accuracies of the seeds}}, and the number of training images of each fraction.

    Raises:
        ValueError: a fraction is out of range, or leaves fewer images than a batch.
    """
    wrong = [fraction for fraction in fractions if not 0 < fraction <= 1]
    if wrong:
        raise ValueError(f"Expected fractions in (0, 1], got {wrong}.")
    workdir = Path(workdir)
    source = load_recipe_source(recipe, skip_corrupt)
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
    results: dict[str, dict[float, list[float]]] = {name: {fraction: [] for fraction in fractions} for name in networks}
    for fraction, count in sizes.items():
        part = part_of(recipe, source, count)
        for name, seed in itertools.product(networks, seeds):
            case = dataclasses.replace(on_its_own_terms(name, recipe), steps=steps, seed=seed)
            folder = workdir / f"{name}_{count}_images_seed_{seed}"

            def train(name=name, case=case, folder=folder, part=part):
                model = None if name == "mixer" else build_network(name, case, len(part.class_names), case.seed)
                options = {"source": part, "model": model, "validate": False, "log": lambda line: None}
                return fit_model(case, workdir=folder, **options).metrics["accuracy"]

            accuracies = results[name][fraction]
            accuracies.append(stored.result(folder.name, train))
            log(f"{NETWORKS[name]}, {count:,} training images, seed {seed}: {accuracies[-1]:.2%}")
    return results, sizes


def part_of(recipe: Recipe, source: Source, count) -> Source:
    """The source with `count` of its training images, equally many per class.

    Of TensorFlow Datasets the first images are taken, so that the others are not even read; their files are in random
    order.

    Raises:
        ValueError: the training split of the recipe does not start at the first image.
    """
    if count == source.train.size:
        return source
    if source.train.read_shard is None:
        return with_training_images(source, count)
    cut = re.fullmatch(r"(\w+)(\[:[^:\]]+\])?", recipe.train_split)
    if cut is None:
        raise ValueError(f"Expected a training split that starts at the first image, got {recipe.train_split!r}.")
    return load_recipe_source(dataclasses.replace(recipe, train_split=f"{cut[1]}[:{count}]"))


def data_size_figure(results, sizes):
    """Test accuracy over the number of training images: per network the mean over the seeds, and one dot per seed.

    Args:
        results: {network: {fraction: accuracies}}.
        sizes: {fraction: number of images}.
    """
    figure, ax = canvas(6.0, 4.2)
    for colour, (name, accuracies) in zip(COLOURS, results.items(), strict=False):
        means = [np.mean(values) for values in accuracies.values()]
        ax.plot(
            [sizes[fraction] for fraction in accuracies], means, "-", color=colour, linewidth=2, label=NETWORKS[name]
        )
        for fraction, values in accuracies.items():
            ax.plot([sizes[fraction]] * len(values), values, "o", color=colour, markersize=4, alpha=0.7)
    ax.set(xscale="log", xlabel="training images", ylabel="test accuracy", title="equal steps")
    ax.set_xticks(list(sizes.values()), [f"{count:,}\n{fraction:.0%}" for fraction, count in sizes.items()])
    ax.minorticks_off()
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return figure

"""What the experiments that train share: any network under one recipe, every result measured once."""

import dataclasses
import functools
import json
import tempfile
from pathlib import Path

import numpy as np

from keras_mixer import RECIPES

# `keras_mixer.fit` trains Mixers only. A ResNet under the same recipe, and data with fewer images, have no public name:
from keras_mixer.training.fit import fit_model
from keras_mixer.training.inputs import load_recipe_source


@dataclasses.dataclass(frozen=True)
class Training:
    """What is equal for all networks that an experiment compares."""

    recipe: str = "digits"
    """Recipe of the Mixer's sizes, and of the augmentation and optimization of all networks."""
    data: str | None = None
    """Image folder or TensorFlow Datasets name; the recipe's own by default."""
    image_size: int | None = None
    """Side in pixels, the recipe's by default; the ResNet needs at least 32."""
    patch_size: int | None = None
    """Side of a patch in pixels; the recipe's by default."""
    training_images: int | None = None
    """Number of training images, equally many of each class; all by default."""
    steps: int = 300
    """Optimizer steps of each training."""
    points: int = 5
    """Number of measurements in each training."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of weights, data order and augmentation; one training each."""

    @functools.cached_property
    def settings(self):
        """The recipe with the changes."""
        changes = {"data": self.data, "image_size": self.image_size, "patch_size": self.patch_size}
        changes = {name: value for name, value in changes.items() if value is not None}
        return dataclasses.replace(RECIPES[self.recipe], **changes)

    @functools.cached_property
    def source(self):
        """The data."""
        source = load_recipe_source(self.settings)
        if self.training_images is None:
            return source
        chosen = np.zeros(source.train.size, bool)
        chosen[draw(source.train.labels(), self.training_images)] = True
        return dataclasses.replace(source, train=source.train.part(chosen))

    def compare(self, file, networks, workdir=None):
        """Trains every network with every seed; returns the test accuracies {name: `(seeds, points)`}, prints the last.

        Args:
            file: of the results, see `remembered`.
            networks: {name: function of a seed that builds the network}.
            workdir: folder in which the runs are kept, if they are.
        """
        results = {name: [] for name in networks}
        for seed in self.seeds:
            for name, build in networks.items():

                def measure(name=name, build=build, seed=seed):
                    options = {"steps": self.steps, "points": self.points, "seed": seed}
                    if workdir:
                        options["workdir"] = workdir / f"{name}_{self.source.train.size}_images_seed_{seed}"
                    return train(build(seed), self.settings, self.source, **options)

                case = {"network": name, "seed": seed, "steps": self.steps, "points": self.points}
                case |= {"images": self.source.train.size, "recipe": dataclasses.asdict(self.settings)}
                results[name].append(remembered(file, measure, **case))
                print(f"{name}, seed {seed}: {results[name][-1][-1]:.2%}", flush=True)
        finals = {name: np.array(curves)[:, -1] for name, curves in results.items()}
        rows = [(name, *(f"{value:.2%}" for value in (final.mean(), *final))) for name, final in finals.items()]
        header = (f"{self.source.train.size:,} training images", "mean", *(f"seed {seed}" for seed in self.seeds))
        print_table(header, rows)
        return results


def draw(labels, count, seed=0):
    """`(n,) -> (count,)`: sorted indices, drawn from the classes in turn. A larger draw contains the smaller ones."""
    if not 1 <= count <= len(labels):
        raise ValueError(f"Expected 1 to {len(labels)} training images, got {count}.")
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    rank = np.empty(len(labels), np.int64)  # first, second, ... of its class
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        rank[members] = np.arange(len(members))
    return np.sort(shuffled[np.argsort(rank[shuffled], kind="stable")][:count])


def train(network, recipe, source, *, steps, points=1, seed=0, workdir=None):
    """Test accuracy of a network after `steps / points`, 2 `steps / points`, ... steps of a recipe, on one device.

    The network is any Keras model from pixels in [0, 255] to logits, with its initial weights. In a `workdir`, the run
    is kept and resumes.
    """
    if steps % points:
        raise ValueError(f"steps must be a multiple of points={points}, got {steps}.")
    length = {"steps": steps, "steps_per_epoch": steps // points, "warmup_steps": min(recipe.warmup_steps, steps // 2)}
    recipe = dataclasses.replace(recipe, seed=seed, devices=1, **length)  # BatchNormalization differs on more devices
    with tempfile.TemporaryDirectory() as folder:
        options = {"source": source, "model": network, "log": lambda line: None}
        return fit_model(recipe, workdir=workdir or folder, **options).history["val_accuracy"]


def remembered(file, measure, **case):
    """`measure()`, or what `file` says that it was for the same `case`, so that a stopped experiment resumes.

    The file has one line of JSON for each result; `case` is all that determines it, as plain data.
    """
    file, case = Path(file), json.loads(json.dumps(case))  # tuples become lists, as in the file
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        known = json.loads(line)
        if known["case"] == case:
            return known["result"]
    result = measure()
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a", encoding="utf-8") as results:
        results.write(json.dumps({"case": case, "result": result}) + "\n")
    return result


def print_table(header, rows):
    """Prints a table in Markdown."""
    for row in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(map(str, row))} |")

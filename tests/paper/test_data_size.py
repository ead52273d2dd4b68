import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from image_files import write_folder

from keras_mixer.paper.data_size import data_size_experiment, data_size_figure, part_of
from keras_mixer.training.inputs import load_recipe_source
from keras_mixer.training.recipes import resolve

TINY = resolve(
    "digits",
    num_blocks=1,
    hidden_dim=8,
    tokens_mlp_dim=4,
    channels_mlp_dim=8,
    randaugment_num_ops=0,
    steps=3,
    warmup_steps=1,
    xla_on_cpu=False,
)


def test_parts_of_digits_hold_the_same_test_images_and_even_classes(tmp_path):
    source = load_recipe_source(TINY)
    part = load_recipe_source(part_of(TINY, source, 50, tmp_path))
    assert part.train.size == 50
    assert np.bincount(part.train.labels()).tolist() == [5] * 10
    whole, again = (
        sorted((int(e["label"]), bytes(e["image"].numpy())) for e in map(split.read, split.elements))
        for split in (source.test, part.test)
    )
    assert whole == again
    assert part_of(TINY, source, source.train.size, tmp_path) is TINY


def test_parts_of_a_folder_are_links(tmp_path):
    recipe = dataclasses.replace(TINY, data=str(write_folder(tmp_path / "images", images_per_class=8)))
    part = load_recipe_source(part_of(recipe, load_recipe_source(recipe), 6, tmp_path / "parts"))
    assert (part.train.size, part.test.size) == (6, 16)
    assert all(Path(file).is_symlink() for file in part.train.files)


def test_parts_of_a_tfds_split_are_slices():
    class Source:
        train = type("Split", (), {"size": 1000, "files": ()})

    recipe = dataclasses.replace(TINY, data="cifar10")
    assert part_of(recipe, Source, 100, "nowhere").train_split == "train[:100]"
    sliced = dataclasses.replace(recipe, train_split="train[:99%]")
    assert part_of(sliced, Source, 100, "nowhere").train_split == "train[:100]"
    with pytest.raises(ValueError, match="starts at the first image"):
        part_of(dataclasses.replace(recipe, train_split="train[10%:]"), Source, 100, "nowhere")


def test_all_parts_train_the_same_number_of_steps(tmp_path, monkeypatch):
    calls = []

    def fit(recipe, *, workdir, log):
        calls.append((load_recipe_source(recipe).train.size, recipe.steps, recipe.seed, workdir))
        return SimpleNamespace(metrics={"accuracy": 0.25 * len(calls)})

    monkeypatch.setattr("keras_mixer.paper.data_size.fit", fit)
    recipe = dataclasses.replace(TINY, steps=None, epochs=2)
    options = {"fractions": (0.05, 1.0), "seeds": (0, 4), "log": lambda line: None}
    results, sizes = data_size_experiment(recipe, tmp_path, **options)
    assert [call[:3] for call in calls] == [(72, 44, 0), (72, 44, 4), (1437, 44, 0), (1437, 44, 4)]
    assert len({call[3] for call in calls}) == 4
    assert sizes == {0.05: 72, 1.0: 1437}
    assert data_size_experiment(recipe, tmp_path, **options) == (results, sizes)
    assert len(calls) == 4
    (ax,) = data_size_figure(results, sizes).axes
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.375, 0.875])
    with pytest.raises(ValueError, match="smallest subset has 14 images, a batch 64"):
        data_size_experiment(TINY, tmp_path / "other", fractions=(0.01, 1.0))
    with pytest.raises(ValueError, match=r"got \[1.5\]"):
        data_size_experiment(TINY, tmp_path / "other", fractions=(1.5,))

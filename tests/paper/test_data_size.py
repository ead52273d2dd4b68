import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

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


def test_a_part_has_the_same_test_images_and_even_classes():
    source = load_recipe_source(TINY)
    part = part_of(TINY, source, 50)
    assert part.train.size == 50
    assert np.bincount(part.train.labels()).tolist() == [5] * 10
    assert part.test is source.test
    assert part_of(TINY, source, source.train.size) is source


def test_parts_of_a_tfds_split_are_slices(monkeypatch):
    source = SimpleNamespace(train=SimpleNamespace(size=1000, read_shard=lambda count, index: None))
    monkeypatch.setattr("keras_mixer.paper.data_size.load_recipe_source", lambda recipe: recipe.train_split)
    recipe = dataclasses.replace(TINY, data="cifar10")
    assert part_of(recipe, source, 100) == "train[:100]"
    assert part_of(dataclasses.replace(recipe, train_split="train[:99%]"), source, 100) == "train[:100]"
    with pytest.raises(ValueError, match="starts at the first image"):
        part_of(dataclasses.replace(recipe, train_split="train[10%:]"), source, 100)


def test_all_parts_train_the_same_number_of_steps(tmp_path, monkeypatch):
    calls = []

    def fit_model(recipe, *, workdir, source, model, **options):
        name = model.name if model else "mixer"
        calls.append((name, source.train.size, recipe.steps, recipe.seed, recipe.xla_on_cpu, workdir))
        return SimpleNamespace(metrics={"accuracy": 0.25 * len(calls)})

    monkeypatch.setattr("keras_mixer.paper.data_size.fit_model", fit_model)
    recipe = dataclasses.replace(TINY, steps=None, epochs=2, xla_on_cpu=True)
    options = {"fractions": (0.05, 1.0), "seeds": (0, 4), "networks": ("mixer", "vit"), "log": lambda line: None}
    results, sizes = data_size_experiment(recipe, tmp_path, **options)
    assert [call[:5] for call in calls] == [
        (name, size, 44, seed, name == "mixer")
        for size in (72, 1437)
        for name in ("mixer", "small_vit")
        for seed in (0, 4)
    ]
    assert len({call[5] for call in calls}) == 8
    assert sizes == {0.05: 72, 1.0: 1437}
    assert data_size_experiment(recipe, tmp_path, **options) == (results, sizes)
    assert len(calls) == 8
    (ax,) = data_size_figure(results, sizes).axes
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.375, 1.375])
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["Mixer", "ViT"]
    with pytest.raises(ValueError, match="smallest subset has 14 images, a batch 64"):
        data_size_experiment(TINY, tmp_path / "other", fractions=(0.01, 1.0))
    with pytest.raises(ValueError, match=r"got \[1.5\]"):
        data_size_experiment(TINY, tmp_path / "other", fractions=(1.5,))

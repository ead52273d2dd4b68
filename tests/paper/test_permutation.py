import keras
import numpy as np
import pytest

import keras_mixer
from keras_mixer.data.sources import load_source
from keras_mixer.paper.permutation import (
    INPUTS,
    permutation_experiment,
    permutation_figure,
    permuted,
    permuted_mixer,
    shuffle_patches,
    shuffle_pixels,
)
from keras_mixer.training.recipes import resolve


def numpy(x):
    return keras.ops.convert_to_numpy(x)


@pytest.mark.parametrize(
    ("input_shape", "patch_size"),
    [((16, 16, 3), 4), ((16, 24, 3), 4), pytest.param((12, 16, 1), (3, 8), marks=pytest.mark.backends)],
    ids=str,
)
def test_permuted_weights_undo_permuted_patches(tiny_mixer, rng, input_shape, patch_size):
    model = tiny_mixer(input_shape=input_shape, patch_size=patch_size, classifier_activation=None)
    images = rng.integers(0, 256, (3, *input_shape)).astype(np.float32)
    shuffled = numpy(permuted(images, shuffle_patches(input_shape[:2], patch_size, seed=5)))
    assert np.abs(numpy(model(shuffled)) - numpy(model(images))).max() > 0.1
    np.testing.assert_allclose(numpy(permuted_mixer(model, seed=5)(shuffled)), numpy(model(images)), atol=1e-5)
    assert np.abs(numpy(permuted_mixer(model, seed=6)(shuffled)) - numpy(model(images))).max() > 0.1


def test_tokens_of_the_permuted_mixer_are_the_old_ones_in_another_order(tiny_mixer, rng):
    """Logits do not see the last bias of token mixing: it is equal in all channels, which every LayerNorm removes."""
    model = tiny_mixer()
    images = rng.integers(0, 256, (1, 16, 16, 3)).astype(np.float32)
    shuffled = numpy(permuted(images, shuffle_patches((16, 16), 4, seed=5)))
    before, after = (
        numpy(keras_mixer.feature_extractor(network, ["block_1"])(pixels)["block_1"]).reshape(16, -1)
        for network, pixels in ((model, images), (permuted_mixer(model, seed=5), shuffled))
    )
    order = [int(np.abs(before - token).sum(1).argmin()) for token in after]
    assert sorted(order) == list(range(16))
    assert order != list(range(16))
    np.testing.assert_allclose(after, before[order], atol=1e-4)


def test_patches_stay_whole_and_share_one_inner_order():
    places = shuffle_patches((8, 12), 4, seed=1).reshape(8, 12)
    rows, columns = places // 12, places % 12
    inner = set()
    for top in (0, 4):
        for left in (0, 4, 8):
            patch = np.s_[top : top + 4, left : left + 4]
            assert len(set(rows[patch].ravel() // 4)) == len(set(columns[patch].ravel() // 4)) == 1
            inner.add((tuple(rows[patch].ravel() % 4), tuple(columns[patch].ravel() % 4)))
    assert len(inner) == 1
    assert sorted(places.ravel()) == list(range(96))


def test_a_permutation_is_one_for_all_images_and_follows_from_the_seed(rng):
    images = rng.integers(0, 256, (4, 6, 8, 3), dtype=np.uint8)
    order = shuffle_pixels((6, 8), seed=2)
    moved = numpy(permuted(images, order))
    np.testing.assert_array_equal(moved[3, 1, 2], images[3].reshape(48, 3)[order[10]])
    np.testing.assert_array_equal(order, shuffle_pixels((6, 8), seed=2))
    assert (order != shuffle_pixels((6, 8), seed=3)).any()


def test_the_experiment_trains_every_case_once_and_is_drawn(tmp_path, monkeypatch):
    cases = []

    def train_curve(model, recipe, source, *, steps, points, seed, transform):
        assert (steps, points) == (4, 2)
        images = np.arange(2 * 32 * 32 * 3.0).reshape(2, 32, 32, 3)
        cases.append((model.name, seed, None if transform is None else numpy(transform(images))))
        return [0.1 * len(cases), 0.2 * len(cases)]

    monkeypatch.setattr("keras_mixer.paper.permutation.train_curve", train_curve)
    recipe = resolve("digits", image_size=32, patch_size=16, num_blocks=1)
    options = {"steps": 4, "points": 2, "seeds": (0, 1), "log": lambda line: None}
    source = load_source("digits")
    result = permutation_experiment(recipe, source, tmp_path / "p.json", **options)
    assert len(cases) == 2 * 2 * 3
    assert [case[2] is None for case in cases[:3]] == [True, False, False]
    np.testing.assert_array_equal(cases[1][2], cases[4][2])  # Mixer and ResNet see the same
    assert (cases[1][2] != cases[7][2]).any()  # another seed, another permutation
    assert all(np.shape(result[network][kind]) == (2, 2) for network in ("mixer", "resnet") for kind in INPUTS)
    assert permutation_experiment(recipe, source, tmp_path / "p.json", **options) == result
    assert len(cases) == 12
    (left, right) = permutation_figure(result, 4).axes
    assert [line.get_label() for line in left.lines] == list(INPUTS)
    np.testing.assert_array_equal(right.lines[0].get_xdata(), [2, 4])

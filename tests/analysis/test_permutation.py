import keras
import numpy as np
import pytest

from keras_mixer.analysis.figures import write_figure
from keras_mixer.analysis.permutation import (
    INPUTS,
    permutation_experiment,
    permutation_figure,
    permuted,
    permuted_mixer,
    shuffle_patches,
    shuffle_pixels,
    small_resnet,
)
from keras_mixer.data.sources import load_source
from keras_mixer.training.recipes import resolve


def numpy(x):
    return keras.ops.convert_to_numpy(x)


@pytest.mark.backends
@pytest.mark.parametrize(
    ("input_shape", "patch_size"), [((16, 16, 3), 4), ((16, 24, 3), 4), ((12, 16, 1), (3, 8))], ids=str
)
def test_permuted_weights_undo_permuted_patches(tiny_mixer, rng, input_shape, patch_size):
    model = tiny_mixer(input_shape=input_shape, patch_size=patch_size, classifier_activation=None)
    images = rng.integers(0, 256, (3, *input_shape)).astype(np.float32)
    shuffled = numpy(permuted(images, shuffle_patches(input_shape[:2], patch_size, seed=5)))
    assert np.abs(numpy(model(shuffled)) - numpy(model(images))).max() > 0.1
    np.testing.assert_allclose(numpy(permuted_mixer(model, seed=5)(shuffled)), numpy(model(images)), atol=1e-5)
    assert np.abs(numpy(permuted_mixer(model, seed=6)(shuffled)) - numpy(model(images))).max() > 0.1


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


def test_the_experiment_trains_every_case_once_and_is_drawn(tmp_path):
    recipe = resolve("digits", image_size=32, patch_size=16, num_blocks=1, hidden_dim=8, tokens_mlp_dim=4)
    recipe = resolve(recipe, channels_mlp_dim=8, randaugment_num_ops=0, xla_on_cpu=False)
    lines = []
    options = {"steps": 4, "points": 2, "seeds": (0,), "networks": ("mixer",), "report": lines.append}
    source = load_source("digits")
    result = permutation_experiment(recipe, source, tmp_path / "p.json", **options)
    assert list(result["mixer"]) == list(INPUTS)
    assert all(np.shape(curves) == (1, 2) for curves in result["mixer"].values())
    assert permutation_experiment(recipe, source, tmp_path / "p.json", **options) == result
    assert write_figure(permutation_figure(result, 4), tmp_path / "p.png").is_file()
    with pytest.raises(ValueError, match="multiple of points"):
        permutation_experiment(recipe, source, tmp_path / "q.json", **(options | {"steps": 5}))


def test_the_resnet_is_one():
    model = small_resnet((32, 32, 3), 7)
    assert model.output_shape == (None, 7)
    assert sum("_add" in layer.name for layer in model.get_layer("resnet").layers) == 4

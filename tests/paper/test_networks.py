import numpy as np

from keras_mixer.paper.networks import build_network, on_its_own_terms, small_resnet, small_vit
from keras_mixer.paper.permutation import permuted
from keras_mixer.training.recipes import resolve


def test_the_resnet_is_one():
    model = small_resnet((32, 32, 3), 7)
    assert model.output_shape == (None, 7)
    assert sum("_add" in layer.name for layer in model.get_layer("resnet").layers) == 4


def test_the_vit_knows_the_place_of_a_patch_only_from_its_positions():
    model = small_vit((8, 8, 3), 5, patch_size=4, blocks=2, channels=64)
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.float32)
    order = np.arange(64).reshape(2, 4, 2, 4)[::-1].reshape(-1)  # the lower patches first
    assert np.abs(model(permuted(images, order)) - model(images)).max() > 1e-3
    positions = model.get_layer("positions").positions
    positions.assign(np.asarray(positions)[[2, 3, 0, 1]])
    moved = np.asarray(model(permuted(images, order)))
    positions.assign(np.asarray(positions)[[2, 3, 0, 1]])
    np.testing.assert_allclose(moved, model(images), atol=1e-5)
    assert model.get_layer("attention_0").num_heads == 2


def test_networks_have_the_sizes_of_the_recipe_and_weights_of_the_seed():
    recipe = resolve("digits", num_blocks=1, hidden_dim=32)
    mixer, again, vit = (
        build_network(name, recipe, 10, seed) for name, seed in (("mixer", 1), ("mixer", 1), ("vit", 1))
    )
    assert mixer.output_shape == vit.output_shape == (None, 10)
    assert vit.get_layer("positions").positions.shape == (16, 32)
    for first, second in zip(mixer.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)
    assert (on_its_own_terms("mixer", recipe).xla_on_cpu, on_its_own_terms("vit", recipe).xla_on_cpu) == ("auto", False)

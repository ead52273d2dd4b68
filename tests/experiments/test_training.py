import keras
import numpy as np
import pytest

from experiments.networks import small_resnet, small_vit
from experiments.permutation import permuted
from experiments.training import Training, draw, remembered, train

DIGITS = Training("smoke", image_size=8)


@pytest.mark.backends
def test_a_network_is_measured_at_equal_distances_with_its_own_pixels(tmp_path):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = keras.layers.Flatten()(keras.layers.Rescaling(1 / 127.5, offset=-1)(image))
    network = keras.Model(image, keras.layers.Dense(10)(x))
    options = {"steps": 30, "points": 3, "workdir": tmp_path / "run"}
    curve = train(network, DIGITS.settings, DIGITS.source, **options)
    assert len(curve) == 3
    assert curve[2] > curve[0] > 0.1
    assert train(network, DIGITS.settings, DIGITS.source, **options) == curve  # the run was kept
    with pytest.raises(ValueError, match="multiple of points=4, got 30"):
        train(network, DIGITS.settings, DIGITS.source, steps=30, points=4)


def test_every_class_gives_as_many_as_any_other_and_more_images_keep_the_fewer(rng):
    labels = rng.permutation(np.repeat([0, 1, 2], [40, 30, 4]))
    few, many = draw(labels, 9), draw(labels, 30)
    assert np.bincount(labels[few]).tolist() == [3, 3, 3]
    assert np.bincount(labels[many]).tolist() == [13, 13, 4]
    assert set(few) < set(many)
    assert len(draw(labels, 74)) == len(set(draw(labels, 74))) == 74
    with pytest.raises(ValueError, match="1 to 74 training images, got 75"):
        draw(labels, 75)
    part = Training("smoke", training_images=50).source
    assert np.bincount(part.train.labels()).tolist() == [5] * 10
    assert part.test.size == 360


def test_what_was_measured_is_not_measured_again(tmp_path):
    calls = []
    for _ in range(2):
        for steps in (1, 2):
            found = remembered(tmp_path / "r.jsonl", lambda: calls.append(1) or [0.5], steps=steps, seeds=(1, 2))
            assert found == [0.5]
    assert len(calls) == 2


def test_the_resnet_has_four_blocks_and_the_parameters_of_the_page():
    model = small_resnet((32, 32, 3), 10)
    assert sum(isinstance(layer, keras.layers.Add) for layer in model.layers) == 4
    assert model.count_params() == 529_898


def test_the_vit_knows_the_place_of_a_patch_only_from_its_positions(rng):
    model = small_vit((8, 8, 3), 5, patch_size=4, blocks=2, channels=64)
    images = rng.integers(0, 256, (2, 8, 8, 3)).astype(np.float32)
    order = np.arange(64).reshape(2, 4, 2, 4)[::-1].reshape(-1)  # the lower patches first
    assert np.abs(model(permuted(images, order)) - model(images)).max() > 1e-3
    expected = np.asarray(model(images))
    positions = model.get_layer("positions").positions
    positions.assign(np.asarray(positions)[[2, 3, 0, 1]])
    np.testing.assert_allclose(model(permuted(images, order)), expected, atol=1e-5)
    assert model.get_layer("attention_0").num_heads == 2

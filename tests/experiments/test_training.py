import keras
import numpy as np
import pytest

from experiments.networks import small_resnet
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

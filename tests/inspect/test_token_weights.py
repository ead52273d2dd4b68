import numpy as np
import pytest

import keras_mixer
from keras_mixer.inspect.figures import write_figure
from keras_mixer.inspect.token_weights import (
    arrange,
    frequency_against_random,
    mean_radial_frequency,
    mosaic,
    stem_figure,
    unit_weights,
    weights_figure,
)


def wave(shape, cycles, phase=0.0):
    """A plane wave with `cycles` (rows, columns) over the image."""
    y, x = np.meshgrid(*(np.arange(side) / side for side in shape), indexing="ij")
    return np.cos(2 * np.pi * (cycles[0] * y + cycles[1] * x) + phase)


@pytest.mark.parametrize("shape", [(14, 14), (8, 12)])
def test_planted_waves_have_their_frequency(shape):
    cycles = [(0, 0), (0, 1), (1, 1), (2, 1), (3, 3)]
    found = mean_radial_frequency([wave(shape, pair, 0.3) for pair in cycles])
    np.testing.assert_allclose(found, [np.hypot(a / shape[0], b / shape[1]) for a, b in cycles], atol=1e-12)


def test_smooth_units_are_told_from_random_ones(rng):
    smooth = np.array([wave((8, 8), (0, 1)), wave((8, 8), (1, 1)), np.zeros((8, 8))])
    found = frequency_against_random(smooth)
    assert (found.units, found.low) == (2, 1.0)  # the unit of zeros has no frequency
    np.testing.assert_allclose(found.mean, (1 + 2**0.5) / 16)
    noise = frequency_against_random(rng.standard_normal((4000, 8, 8)))
    np.testing.assert_allclose((noise.mean / noise.random, noise.low), (1, 0.05), atol=0.02)
    assert np.isnan(frequency_against_random(np.zeros((3, 8, 8))).low)


@pytest.mark.parametrize("shape", [(14, 14), (8, 12), (16, 7)])
def test_planted_waves_come_out_in_order_with_their_opposites_beside_them(shape, rng):
    cycles = [(0, 1), (1, 1), (2, 1), (0, 3), (3, 3)]
    cycles.sort(key=lambda pair: np.hypot(pair[0] / shape[0], pair[1] / shape[1]))
    planted = [sign * size * wave(shape, pair) for pair in cycles for sign, size in ((1, 1), (-1, 3))]
    shuffled = rng.permutation(len(planted))
    noise = 0.01 * rng.normal(size=(len(planted), *shape))
    result = arrange(np.array(planted)[shuffled] + noise)
    np.testing.assert_array_equal(shuffled[result.order] // 2, np.arange(len(planted)) // 2)
    assert (result.similarity < -0.99).all()
    assert sorted(result.order) == list(range(len(planted)))


def test_a_dead_unit_comes_last_and_an_odd_one_alone():
    weights = np.array(
        [np.zeros((6, 6)), wave((6, 6), (2, 2)), wave((6, 6), (0, 1)), -wave((6, 6), (0, 1)), [[1] * 6] * 6]
    )
    result = arrange(weights)
    assert result.order[0] == 4
    assert result.order[-1] == 0
    assert np.isinf(result.frequency[0])
    assert len(result.similarity) == 2


def test_weights_lie_on_the_grid_as_the_tokens_do(tiny_mixer):
    model = tiny_mixer(input_shape=(16, 24, 3))
    weights = unit_weights(model, 1)
    assert weights.shape == (16, 4, 6)
    kernel = model.get_layer("mixer_block_1").token_mixing.dense_0.get_weights()[0]
    assert weights[5, 2, 3] == kernel[2 * 6 + 3, 5]
    with pytest.raises(ValueError, match="from 0 to 1, got 2"):
        unit_weights(model, 2)


def test_units_of_a_widened_model_are_shown_on_their_tile(tiny_mixer):
    model = tiny_mixer(input_shape=(16, 24, 3))
    before = unit_weights(model, 0)
    wide = keras_mixer.change_resolution(model, (32, 48, 3))
    assert unit_weights(wide, 0).shape == (64, 8, 12)
    np.testing.assert_array_equal(unit_weights(wide, 0, (4, 6)), np.concatenate([before] * 4))
    with pytest.raises(ValueError, match="divides 8 x 12 tokens, got 3 x 6"):
        unit_weights(wide, 0, (3, 6))


def test_a_mosaic_keeps_pairs_in_one_row():
    wall = mosaic(np.arange(7)[:, None, None] * np.ones((7, 2, 3)), columns=4)
    assert wall.shape == (2 + 4 + 2, 7 + 4 + 7)
    np.testing.assert_array_equal(wall[0, [0, 4, 11, 15]], [0, 1, 2, 3])
    np.testing.assert_array_equal(wall[6, [0, 4, 11]], [4, 5, 6])
    assert np.isnan(wall[6, 15])
    assert np.isnan(wall[2:6]).all()
    for count in (1, 5, 16, 100, 384):
        assert (mosaic(np.ones((count, 1, 1))) == 1).sum() == count


@pytest.mark.parametrize("channels", [1, 3])
def test_figures_are_drawn(tiny_mixer, tmp_path, channels):
    model = tiny_mixer(input_shape=(16, 24, channels))
    for name, figure in (("w.png", weights_figure(model, (0, 1))), ("s.svg", stem_figure(model))):
        assert write_figure(figure, tmp_path / name).stat().st_size > 1000

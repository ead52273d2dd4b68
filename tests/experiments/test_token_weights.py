import numpy as np
import pytest

from experiments.token_weights import arrange, mean_radial_frequency, smoothness, unit_weights


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
    mean, _, low = smoothness(smooth)  # the unit of zeros has no frequency
    np.testing.assert_allclose((mean, low), ((1 + 2**0.5) / 16, 1.0))
    mean, random, low = smoothness(rng.standard_normal((4000, 8, 8)))
    np.testing.assert_allclose((mean / random, low), (1, 0.05), atol=0.02)


@pytest.mark.parametrize("shape", [(14, 14), (8, 12)])
def test_planted_waves_come_out_in_order_with_their_opposites_beside_them(shape, rng):
    cycles = [(0, 1), (1, 1), (2, 1), (0, 3), (3, 3)]
    cycles.sort(key=lambda pair: np.hypot(pair[0] / shape[0], pair[1] / shape[1]))
    planted = [sign * size * wave(shape, pair) for pair in cycles for sign, size in ((1, 1), (-1, 3))]
    shuffled = rng.permutation(len(planted))
    noise = 0.01 * rng.normal(size=(len(planted), *shape))
    order, similarity = arrange(np.array(planted)[shuffled] + noise)
    np.testing.assert_array_equal(shuffled[order] // 2, np.arange(len(planted)) // 2)
    assert (similarity < -0.99).all()
    with_odd_ones = [np.zeros(shape), wave(shape, (2, 2)), wave(shape, (0, 1)), -wave(shape, (0, 1)), np.ones(shape)]
    order, similarity = arrange(np.array(with_odd_ones))
    assert (order[0], order[-1], len(similarity)) == (4, 0, 2)  # a dead unit comes last


def test_weights_lie_on_the_grid_as_the_tokens_do(tiny_mixer):
    model = tiny_mixer(input_shape=(16, 24, 3))
    weights = unit_weights(model)[1]
    assert weights.shape == (16, 4, 6)
    kernel = model.get_layer("mixer_block_1").token_mixing.dense_0.get_weights()[0]
    assert weights[5, 2, 3] == kernel[2 * 6 + 3, 5]

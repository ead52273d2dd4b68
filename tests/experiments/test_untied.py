import keras
import numpy as np
import pytest

import keras_mixer
from experiments.untied import GroupedTokenMlp, untied_mixer, untied_parameters
from keras_mixer.variants import Variant


def numpy(x):
    return keras.ops.convert_to_numpy(x)


@pytest.mark.parametrize("groups", [1, pytest.param(2, marks=pytest.mark.backends), 8])
def test_groups_with_equal_weights_are_the_papers_token_mlp(rng, groups):
    tied = keras_mixer.MlpBlock(5)
    x = rng.normal(size=(2, 8, 12)).astype(np.float32)  # (B, C, S)
    tied(x)
    for weight in tied.weights:
        weight.assign(rng.normal(size=weight.shape))
    grouped = GroupedTokenMlp(groups, 5)
    grouped.build((None, 12, 8))
    grouped.set_weights([np.repeat(array[None], groups, 0) for array in tied.get_weights()])
    np.testing.assert_allclose(numpy(grouped(x.transpose(0, 2, 1))), numpy(tied(x)).transpose(0, 2, 1), atol=1e-5)


def test_a_group_sees_its_own_channels_and_weights_alone(rng):
    layer = GroupedTokenMlp(4, 5)
    x = rng.normal(size=(1, 12, 8)).astype(np.float32)
    before = numpy(layer(x))
    kernel = numpy(layer.kernel_0).copy()
    assert np.abs(kernel[0] - kernel[1]).max() > 0.1  # groups start apart
    kernel[2] += 1
    layer.kernel_0.assign(kernel)
    changed = np.abs(numpy(layer(x)) - before).max((0, 1)) > 1e-6
    assert changed.tolist() == [False] * 4 + [True] * 2 + [False] * 2
    with pytest.raises(ValueError, match="8 channels cannot be split into 3"):
        GroupedTokenMlp(3, 5).build((None, 12, 8))


def test_parameters_follow_the_formula():
    variant = Variant(8, 1, 8, 4, 8)
    for groups in (1, 4, 8):
        model = untied_mixer(variant, groups, (16, 24, 3), 7)
        assert model.count_params() == untied_parameters(variant, groups, (16, 24, 3), 7)
        assert model.output_shape == (None, 7)

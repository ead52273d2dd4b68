import keras
import pytest

import keras_mixer
from keras_mixer.inspect.cost import exact_cost, traced_macs


@pytest.mark.parametrize(("shape", "patch"), [((16, 16, 3), 4), ((16, 24, 1), (8, 4)), ((32, 16, 4), 16)], ids=str)
@pytest.mark.parametrize("include_top", [True, False])
def test_the_formula_counts_what_the_graph_multiplies(tiny_mixer, shape, patch, include_top):
    model = tiny_mixer(input_shape=shape, patch_size=patch, include_top=include_top, pooling="avg")
    parameters, macs = exact_cost(model)
    assert parameters == model.count_params()
    assert macs == traced_macs(model)


def test_the_graph_of_s32_has_the_published_number():
    assert traced_macs(keras_mixer.MixerS32()) == keras_mixer.VARIANTS["S/32"].macs() == 1_002_426_368


def test_attention_is_counted_too():
    tokens = keras.Input((10, 32))
    y = keras.layers.MultiHeadAttention(4, 8)(tokens, tokens)
    assert traced_macs(keras.Model(tokens, y)) == 4 * 10 * 32 * 32 + 2 * 10 * 10 * 32

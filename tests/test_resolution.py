import keras
import numpy as np
import pytest

import keras_mixer
from keras_mixer.layers import MixerBlock

pytestmark = pytest.mark.backends


def logits(model, images):
    return keras.ops.convert_to_numpy(model(images))


@pytest.mark.parametrize("tiles", [(2, 2), (1, 2), (3, 2)])
@pytest.mark.parametrize(("input_shape", "patch_size"), [((16, 16, 3), 4), ((16, 24, 3), 4), ((24, 16, 1), (8, 4))])
def test_logits_of_the_widened_model_are_the_mean_over_its_tiles(tiny_mixer, rng, tiles, input_shape, patch_size):
    model = tiny_mixer(input_shape=input_shape, patch_size=patch_size, classifier_activation=None)
    height, width, channels = input_shape
    big = keras_mixer.change_resolution(model, (tiles[0] * height, tiles[1] * width, channels))
    pixels = rng.integers(0, 256, (2, tiles[0] * height, tiles[1] * width, channels), dtype=np.uint8)
    parts = [
        logits(model, pixels[:, a * height : (a + 1) * height, b * width : (b + 1) * width])
        for a in range(tiles[0])
        for b in range(tiles[1])
    ]
    np.testing.assert_allclose(logits(big, pixels), np.mean(parts, 0), atol=1e-5)


def test_widened_b16_has_the_published_number_of_parameters():
    model = keras_mixer.change_resolution(keras_mixer.Mixer(16, 1, 768, 384, 3072), (448, 448, 3))
    others = 11 * model.get_layer("mixer_block_0").count_params()  # equal blocks that need not be built
    assert model.count_params() + others == 86_996_392


def test_bilinear_to_the_same_size_changes_nothing(tiny_mixer):
    model = tiny_mixer(input_shape=(16, 24, 3))
    same = keras_mixer.change_resolution(model, (16, 24, 3), method="bilinear")
    for mine, theirs in zip(model.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.parametrize("size", [(20, 24), (32, 32), (12, 16)])
def test_bilinear_fits_any_size_and_keeps_what_flat_pictures_say(tiny_mixer, size):
    model = tiny_mixer(classifier_activation=None)
    for block in model.layers:  # weights that do not depend on the place give the same answer on any grid
        if isinstance(block, MixerBlock):
            mlp = block.token_mixing
            mlp.dense_0.kernel.assign(np.broadcast_to(mlp.dense_0.kernel.numpy()[:1], mlp.dense_0.kernel.shape))
            mlp.dense_1.kernel.assign(np.broadcast_to(mlp.dense_1.kernel.numpy()[:, :1], mlp.dense_1.kernel.shape))
            mlp.dense_1.bias.assign(np.full(mlp.dense_1.bias.shape, 0.3))
    other = keras_mixer.change_resolution(model, (*size, 3), method="bilinear")
    assert other.get_layer("mixer_block_0").tokens_mlp_dim == 16
    flat = np.full((1, 16, 16, 3), 90, np.uint8)
    np.testing.assert_allclose(
        logits(other, np.full((1, *size, 3), 90, np.uint8)), logits(model, flat), rtol=1e-4, atol=1e-5
    )


def test_everything_else_of_the_model_is_kept(tiny_mixer):
    model = tiny_mixer(dropout_rate=0.1, drop_path_rate=0.2, classifier_activation="sigmoid")
    model.class_names, model.evaluation_crop = tuple("abcdefghij"), "resize"
    big = keras_mixer.change_resolution(model, (32, 16, 3))
    assert (big.class_names, big.evaluation_crop) == (model.class_names, "resize")
    assert big.get_layer("probabilities").activation is keras.activations.sigmoid
    old, new = ([b for b in m.layers if isinstance(b, MixerBlock)] for m in (model, big))
    np.testing.assert_allclose([b.drop_path_rates for b in new], [b.drop_path_rates for b in old])
    assert new[0].dropout_rate == 0.1
    features = tiny_mixer(include_top=False)
    assert keras_mixer.change_resolution(features, (32, 48, 3)).output_shape == (None, 8, 12, 32)


def test_sizes_that_do_not_work_are_refused_with_those_that_do(tiny_mixer):
    with pytest.raises(ValueError, match=r"heights of 16, 32, 48.*method=\"bilinear\""):
        keras_mixer.change_resolution(tiny_mixer(), (20, 16, 3))
    with pytest.raises(ValueError, match="16 or 20"):
        keras_mixer.change_resolution(tiny_mixer(), (18, 16, 3), method="bilinear")
    with pytest.raises(ValueError, match="block_diagonal, bilinear"):
        keras_mixer.change_resolution(tiny_mixer(), (32, 32, 3), method="tiles")
    with pytest.raises(ValueError, match="not a Mixer"):
        keras_mixer.change_resolution(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), (32, 32, 3))

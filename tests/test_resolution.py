"""Another image size: the paper's rule is exact, bilinear resizing keeps what does not depend on the place."""

import keras
import numpy as np
import pytest

import keras_mixer
from keras_mixer.layers import MixerBlock


def logits(model, images):
    return keras.ops.convert_to_numpy(model(images))


@pytest.mark.backends
@pytest.mark.parametrize("tiles", [(1, 2), (3, 2)])
@pytest.mark.parametrize(("input_shape", "patch_size"), [((16, 24, 3), 4), ((24, 16, 1), (8, 4))])
def test_logits_of_the_widened_model_are_the_mean_over_its_tiles(tiny_mixer, rng, tiles, input_shape, patch_size):
    model = tiny_mixer(input_shape=input_shape, patch_size=patch_size, classifier_activation=None)
    height, width, channels = input_shape
    big = keras_mixer.change_resolution(model, (tiles[0] * height, tiles[1] * width, channels))
    pixels = rng.integers(0, 256, (2, tiles[0] * height, tiles[1] * width, channels), dtype=np.uint8)
    parts = [
        logits(model, part) for row in np.split(pixels, tiles[0], axis=1) for part in np.split(row, tiles[1], axis=2)
    ]
    np.testing.assert_allclose(logits(big, pixels), np.mean(parts, 0), atol=1e-5)


def test_bilinear_fits_any_size_and_keeps_what_flat_pictures_say(tiny_mixer):
    model = tiny_mixer(classifier_activation=None)
    same = keras_mixer.change_resolution(model, (16, 16, 3), method="bilinear")
    assert all(map(np.array_equal, model.get_weights(), same.get_weights()))
    for block in model.layers:  # weights that do not depend on the place give the same answer on any grid
        if isinstance(block, MixerBlock):
            mlp = block.token_mixing
            mlp.dense_0.kernel.assign(np.broadcast_to(mlp.dense_0.kernel.numpy()[:1], mlp.dense_0.kernel.shape))
            mlp.dense_1.kernel.assign(np.broadcast_to(mlp.dense_1.kernel.numpy()[:, :1], mlp.dense_1.kernel.shape))
            mlp.dense_1.bias.assign(np.full(mlp.dense_1.bias.shape, 0.3))
    expected = logits(model, np.full((1, 16, 16, 3), 90, np.uint8))
    for size in ((20, 24), (12, 16)):
        other = keras_mixer.change_resolution(model, (*size, 3), method="bilinear")
        assert other.get_layer("mixer_block_0").tokens_mlp_dim == 16
        flat = np.full((1, *size, 3), 90, np.uint8)
        np.testing.assert_allclose(logits(other, flat), expected, rtol=1e-4, atol=1e-5)


def test_everything_else_of_the_model_is_kept(tiny_mixer):
    model = tiny_mixer(dropout_rate=0.1, drop_path_rate=0.2, classifier_activation="sigmoid")
    model.class_names, model.evaluation_crop = tuple("abcdefghij"), "resize"
    big = keras_mixer.change_resolution(model, (32, 16, 3))
    assert (big.class_names, big.evaluation_crop) == (model.class_names, "resize")
    wide = keras_mixer.change_resolution(keras_mixer.Mixer(16, 1, 768, 384, 3072), (448, 448, 3))
    others = 11 * wide.get_layer("mixer_block_0").count_params()  # equal blocks that need not be built
    assert wide.count_params() + others == 86_996_392  # as published
    for name, wider in {"mixer_block_1": {"tokens_mlp_dim": 32}, "probabilities": {}}.items():
        assert big.get_layer(name).get_config() == model.get_layer(name).get_config() | wider
    features = tiny_mixer(include_top=False)
    assert keras_mixer.change_resolution(features, (32, 48, 3)).output_shape == (None, 8, 12, 32)


def test_sizes_that_do_not_work_are_refused_with_those_that_do(tiny_mixer):
    rule = r"whole tiles of 16 x 16 px, .*method=\"bilinear\""
    for size, method, message in [
        (20, "block_diagonal", rule),
        (18, "bilinear", "multiple is 16 px"),
        (16, "tiles", "bilinear"),
    ]:
        with pytest.raises(ValueError, match=message):
            keras_mixer.change_resolution(tiny_mixer(), (size, 16, 3), method=method)

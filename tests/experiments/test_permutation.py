import keras
import numpy as np
import pytest

import keras_mixer
from experiments.permutation import INPUTS, on_shuffled, permuted, permuted_mixer, shuffle_patches


def numpy(x):
    return keras.ops.convert_to_numpy(x)


@pytest.mark.parametrize(
    ("input_shape", "patch_size"),
    [((16, 24, 3), (4, 4)), pytest.param((12, 16, 1), (3, 8), marks=pytest.mark.backends)],
    ids=str,
)
def test_permuted_weights_undo_permuted_patches(tiny_mixer, rng, input_shape, patch_size):
    model = tiny_mixer(input_shape=input_shape, patch_size=patch_size, classifier_activation=None)
    images = rng.integers(0, 256, (3, *input_shape)).astype(np.float32)
    shuffled = numpy(permuted(images, shuffle_patches(input_shape[:2], patch_size, seed=5)))
    assert np.abs(numpy(model(shuffled)) - numpy(model(images))).max() > 0.1
    np.testing.assert_allclose(numpy(permuted_mixer(model, seed=5)(shuffled)), numpy(model(images)), atol=1e-5)
    assert np.abs(numpy(permuted_mixer(model, seed=6)(shuffled)) - numpy(model(images))).max() > 0.1


def test_tokens_of_the_permuted_mixer_are_the_old_ones_in_another_order(tiny_mixer, rng):
    """Logits do not see the last bias of token mixing: it is equal in all channels, which every LayerNorm removes."""
    model = tiny_mixer()
    images = rng.integers(0, 256, (1, 16, 16, 3)).astype(np.float32)
    shuffled = numpy(permuted(images, shuffle_patches((16, 16), (4, 4), seed=5)))
    before, after = (
        numpy(keras_mixer.feature_extractor(network, ["block_1"])(pixels)["block_1"]).reshape(16, -1)
        for network, pixels in ((model, images), (permuted_mixer(model, seed=5), shuffled))
    )
    order = [int(np.abs(before - token).sum(1).argmin()) for token in after]
    assert sorted(order) == list(range(16))
    assert order != list(range(16))
    np.testing.assert_allclose(after, before[order], atol=1e-4)


def test_a_network_sees_the_same_pixels_in_another_order(rng):
    image = keras.Input((8, 8, 3))
    seen = keras.Model(image, keras.layers.Identity()(image))
    images = rng.integers(0, 256, (2, 8, 8, 3)).astype(np.float32)
    outputs = {(kind, seed): numpy(on_shuffled(seen, kind, 4, seed)(images)) for kind in INPUTS for seed in (1, 2)}
    np.testing.assert_array_equal(outputs["original", 1], images)
    for kind in INPUTS[1:]:
        assert (outputs[kind, 1] != images).any()
        assert (outputs[kind, 1] != outputs[kind, 2]).any()
        sort = [np.sort(x.reshape(2, 64, 3), axis=1) for x in (outputs[kind, 1], images)]
        np.testing.assert_array_equal(*sort)

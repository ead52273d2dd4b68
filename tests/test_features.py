import keras
import numpy as np
import pytest

import keras_mixer

EVERY = ["stem", "block_0", "block_1", "block_1/token_mixing", "block_1/channel_mixing", "pre_logits", "logits"]


def computed(model, pixels):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(pixels))


@pytest.mark.backends
def test_features_are_the_numbers_the_model_computes(tiny_mixer, rng):
    model, pixels = tiny_mixer(input_shape=(16, 24, 3)), rng.integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    assert list(keras_mixer.feature_extractor(model).output) == ["stem", "block_0", "block_1", "pre_logits", "logits"]
    extractor = keras_mixer.feature_extractor(model, EVERY)
    features, head = computed(extractor, pixels), model.get_layer("head")
    assert list(features) == EVERY
    assert features["stem"].shape == features["block_1"].shape == (2, 4, 6, 32)
    added = features["block_1/token_mixing"] + features["block_1/channel_mixing"]
    np.testing.assert_allclose(features["block_0"] + added, features["block_1"], atol=1e-5)
    logits = features["pre_logits"] @ head.kernel.numpy() + head.bias.numpy()
    np.testing.assert_allclose(features["logits"], logits, atol=1e-5)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(keras.ops.softmax(logits)), computed(model, pixels), atol=1e-5
    )
    head.bias.assign(head.bias + np.arange(10.0))  # the weights are shared
    np.testing.assert_allclose(computed(extractor, pixels)["logits"], logits + np.arange(10.0), atol=1e-5)


@pytest.mark.backends
@pytest.mark.parametrize("exact_gelu", [False, True])
def test_an_extractor_and_its_model_are_saved_apart(tiny_mixer, rng, tmp_path, exact_gelu):
    model, pixels = tiny_mixer(drop_path_rate=0.5, exact_gelu=exact_gelu), rng.integers(0, 256, (2, 16, 16, 3))
    extractor = keras_mixer.feature_extractor(model, ["normed", *EVERY])
    expected = computed(extractor, pixels)
    extractor.save(tmp_path / "features.keras")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(computed(loaded, pixels), computed(model, pixels))
    model.set_weights([np.zeros(weight.shape) for weight in model.weights])
    again = computed(keras.saving.load_model(tmp_path / "features.keras"), pixels)
    assert all(np.array_equal(again[name], feature) for name, feature in expected.items())


def test_unknown_features_are_refused(tiny_mixer):
    with pytest.raises(ValueError, match=r"block_7.*stem, block_0"):
        keras_mixer.feature_extractor(tiny_mixer(), ["block_7"])

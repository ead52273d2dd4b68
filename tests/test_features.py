import keras
import numpy as np
import pytest

import keras_mixer

pytestmark = pytest.mark.backends


def predict(model, images):
    return keras.ops.convert_to_numpy(model(images))


def test_features_are_the_numbers_the_model_computes(tiny_mixer, rng):
    model = tiny_mixer(input_shape=(16, 24, 3))
    pixels = rng.integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    every = ["stem", "block_0", "block_1", "block_1/token_mixing", "block_1/channel_mixing", "pre_logits", "logits"]
    features = keras_mixer.feature_extractor(model, every)(pixels)
    features = {name: keras.ops.convert_to_numpy(feature) for name, feature in features.items()}
    assert list(features) == every
    assert features["stem"].shape == features["block_1"].shape == (2, 4, 6, 32)
    added = features["block_1/token_mixing"] + features["block_1/channel_mixing"]
    np.testing.assert_allclose(features["block_0"] + added, features["block_1"], atol=1e-5)
    logits = (
        features["pre_logits"] @ model.get_layer("head").get_weights()[0] + model.get_layer("head").get_weights()[1]
    )
    np.testing.assert_allclose(features["logits"], logits, atol=1e-5)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(keras.ops.softmax(logits)), predict(model, pixels), atol=1e-5)


def test_features_follow_the_weights_of_the_model(tiny_mixer, rng):
    model = tiny_mixer()
    extractor = keras_mixer.feature_extractor(model)
    assert list(extractor.output) == ["stem", "block_0", "block_1", "pre_logits", "logits"]
    pixels = rng.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8)
    model.get_layer("head").bias.assign(np.arange(10.0))
    before = keras.ops.convert_to_numpy(extractor(pixels)["logits"])
    model.get_layer("head").bias.assign(np.zeros(10))
    after = keras.ops.convert_to_numpy(extractor(pixels)["logits"])
    np.testing.assert_allclose(before - after, np.arange(10.0)[None], atol=1e-5)


@pytest.mark.parametrize("exact_gelu", [False, True])
def test_a_saved_extractor_gives_the_same_features(tiny_mixer, rng, tmp_path, exact_gelu):
    model = tiny_mixer(drop_path_rate=0.5, exact_gelu=exact_gelu)
    every = ["stem", "block_0", "block_1", "block_0/token_mixing", "block_1/channel_mixing", "normed", "logits"]
    extractor = keras_mixer.feature_extractor(model, every)
    extractor.save(tmp_path / "features.keras")
    loaded = keras.saving.load_model(tmp_path / "features.keras")
    pixels = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    features, again = extractor.predict(pixels, verbose=0), loaded.predict(pixels, verbose=0)
    assert set(again) == set(every)
    for name, feature in features.items():
        np.testing.assert_array_equal(again[name], feature)
    model.get_layer("mixer_block_0").set_weights(
        [np.zeros(weight.shape) for weight in model.get_layer("mixer_block_0").weights]
    )
    np.testing.assert_array_equal(loaded.predict(pixels, verbose=0)["block_1"], again["block_1"])  # stands alone


def test_an_extractor_leaves_the_model_as_it_was(tiny_mixer, rng, tmp_path):
    model = tiny_mixer()
    pixels = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    keras_mixer.feature_extractor(model, ["block_0/token_mixing"])
    keras_mixer.feature_extractor(model, ["block_1/token_mixing", "logits"])
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        predict(keras.saving.load_model(tmp_path / "model.keras"), pixels), predict(model, pixels)
    )


def test_unknown_features_are_refused(tiny_mixer):
    with pytest.raises(ValueError, match=r"block_7.*stem, block_0"):
        keras_mixer.feature_extractor(tiny_mixer(), ["block_7"])
    with pytest.raises(ValueError, match="not a Mixer"):
        keras_mixer.feature_extractor(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))

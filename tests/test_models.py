"""What a Mixer computes, against the float64 oracle, and how it is built, initialized and regularized."""

import keras
import numpy as np
import pytest
import reference
from conftest import randomize

import keras_mixer
from keras_mixer.layers import MixerBlock


def weights_of(model):
    return {weight.path: weight.numpy().astype(np.float64) for weight in model.weights}


def predict(model, images):
    return keras.ops.convert_to_numpy(model(images))


def pixels_for(model, rng, count=2):
    return rng.integers(0, 256, (count, *model.input_shape[1:]), dtype=np.uint8)


def assert_equals_the_oracle(model, rng):
    pixels = pixels_for(model, rng)
    expected = reference.mixer(pixels, weights_of(model))
    assert np.abs(predict(model, pixels) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.backends
@pytest.mark.parametrize(
    ("input_shape", "patch_size"), [((16, 48, 3), 4), ((24, 16, 1), (8, 4)), ((12, 12, 5), (3, 6))]
)
def test_logits_equal_the_float64_oracle(tiny_mixer, rng, input_shape, patch_size):
    options = {"input_shape": input_shape, "patch_size": patch_size, "classifier_activation": None}
    model = tiny_mixer(**options)
    assert_equals_the_oracle(model, rng)
    outside = tiny_mixer(**options, include_preprocessing=False)
    outside.set_weights(model.get_weights())
    pixels = pixels_for(model, rng).astype(np.float32)
    np.testing.assert_allclose(predict(outside, (pixels - 127.5) / 127.5), predict(model, pixels), atol=1e-5)


def test_a_published_size_equals_the_oracle(rng):
    assert_equals_the_oracle(randomize(keras_mixer.MixerS32(classes=7, classifier_activation=None), rng), rng)


@pytest.mark.backends
@pytest.mark.parametrize(("training", "exact_gelu"), [(False, False), (True, False), (True, True)])
def test_gradients_equal_finite_differences_of_the_oracle(tiny_mixer, rng, training, exact_gelu):
    sizes = {"patch_size": 2, "hidden_dim": 4, "tokens_mlp_dim": 3, "channels_mlp_dim": 5, "input_shape": (4, 6, 3)}
    model = tiny_mixer(**sizes, classes=3, classifier_activation=None, exact_gelu=exact_gelu)
    activation = reference.exact_gelu if exact_gelu else reference.gelu
    pixels, direction, weights = pixels_for(model, rng), rng.normal(size=(2, 3)), weights_of(model)
    for weight, gradient in zip(model.weights, gradients(model, pixels, direction, training), strict=True):
        probe, step = rng.normal(size=weight.shape), 1e-5
        up, down = ({**weights, weight.path: weights[weight.path] + sign * step * probe} for sign in (1, -1))
        change = reference.mixer(pixels, up, activation) - reference.mixer(pixels, down, activation)
        difference = (change * direction).sum() / (2 * step)
        scale = np.linalg.norm(gradient) * np.linalg.norm(probe)
        assert abs((gradient * probe).sum() - difference) <= 2e-5 * scale + 1e-6, weight.path


def gradients(model, pixels, direction, training):
    """d sum(logits * direction) / d weight for each weight, by the backend's own differentiation."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            total = tf.reduce_sum(model(pixels, training=training) * tf.constant(direction, tf.float32))
        return [np.asarray(gradient) for gradient in tape.gradient(total, [w.value for w in model.weights])]
    import jax

    def total(trainable):
        fixed = [v.value for v in model.non_trainable_variables]
        logits, _ = model.stateless_call(trainable, fixed, pixels, training=training)
        return (logits * direction.astype(np.float32)).sum()

    return [np.asarray(gradient) for gradient in jax.grad(total)([v.value for v in model.trainable_variables])]


def test_kernels_start_as_lecun_normal_and_all_classes_as_equally_likely(rng):
    model = keras_mixer.Mixer(8, 1, 256, 128, 512, input_shape=(64, 64, 3), classes=5)
    np.testing.assert_allclose(predict(model, pixels_for(model, rng)), 0.2, atol=1e-7)
    for weight in model.weights:
        if weight.path.endswith("kernel") and weight.path != "head/kernel":
            fan_in = np.prod(weight.shape[:-1])
            assert abs(weight.numpy().std() * fan_in**0.5 - 1) < 0.03, weight.path


def test_dropout_changes_a_training_step_only(tiny_mixer, rng):
    model, images = tiny_mixer(dropout_rate=0.5), rng.integers(0, 256, (2, 16, 16, 3))
    plain, dropped = (keras.ops.convert_to_numpy(model(images, training=training)) for training in (False, True))
    assert np.abs(plain - dropped).max() > 1e-3


def test_stochastic_depth_rises_linearly_over_the_mlps(tiny_mixer):
    model = tiny_mixer(num_blocks=3, drop_path_rate=0.5)
    rates = [rate for block in model.layers if isinstance(block, MixerBlock) for rate in block.drop_path_rates]
    np.testing.assert_allclose(rates, np.linspace(0, 0.5, 6))


@pytest.mark.backends
def test_stochastic_depth_drops_whole_examples_and_rescales_the_rest(rng):
    block = MixerBlock(8, 16, drop_path_rates=(0.5, 0.0))
    x = rng.normal(size=(64, 6, 4)).astype(np.float32)
    block(x)
    block.channel_mixing.dense_1.kernel.assign(np.zeros((16, 4)))
    full, dropped = (keras.ops.convert_to_numpy(block(x, training=training)) - x for training in (False, True))
    kept = np.abs(dropped).max((1, 2)) > 0
    assert 10 < kept.sum() < 54
    np.testing.assert_allclose(dropped[kept], 2 * full[kept], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_shape": (32, 32)}, "expected 3, got 2"),
        ({"input_shape": (32, 32, 0)}, "channels must be a positive integer, got 0"),
        ({"pooling": "max"}, "pooling"),
        ({"classes": 0}, "classes"),
        ({"dropout_rate": -0.1}, "rate"),
        ({"drop_path_rate": 1.1}, "rate"),
        ({"hidden_dim": 0}, "hidden_dim"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    arguments = {"patch_size": 4, "num_blocks": 1, "hidden_dim": 8, "tokens_mlp_dim": 4, "channels_mlp_dim": 8}
    with pytest.raises(ValueError, match=message):
        keras_mixer.Mixer(**arguments | {"input_shape": (32, 32, 3)} | options)


def test_the_functions_of_table_1_have_one_signature():
    for name in ("patch_size", "exact_gelu", "size"):
        with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
            keras_mixer.MixerS32(**{name: 8})
    with pytest.raises(TypeError, match="positional"):
        keras_mixer.MixerS32((224, 224, 3))

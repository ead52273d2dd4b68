import itertools

import keras
import numpy as np
import pytest
import reference

import keras_mixer
from keras_mixer.layers import LayerNorm, MixerBlock, MlpBlock

pytestmark = pytest.mark.backends


def weights_of(model):
    return {weight.path: weight.numpy().astype(np.float64) for weight in model.weights}


def predict(model, images):
    return keras.ops.convert_to_numpy(model(images))


@pytest.mark.parametrize(
    ("input_shape", "patch_size"),
    [((16, 16, 3), 4), ((16, 48, 3), 4), ((24, 16, 3), (8, 4)), ((8, 8, 1), 2), ((12, 12, 5), (3, 6))],
)
def test_logits_equal_the_float64_oracle(tiny_mixer, rng, input_shape, patch_size):
    model = tiny_mixer(input_shape=input_shape, patch_size=patch_size, classifier_activation=None)
    pixels = rng.integers(0, 256, (3, *input_shape), dtype=np.uint8)
    expected = reference.mixer(pixels, weights_of(model))
    assert np.abs(predict(model, pixels) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_published_size_equals_the_oracle(rng):
    from conftest import randomize

    model = randomize(keras_mixer.MixerS32(classes=7, classifier_activation=None), rng)
    pixels = rng.integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    expected = reference.mixer(pixels, weights_of(model))
    assert np.abs(predict(model, pixels) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_preprocessing_inside_equals_preprocessing_outside(tiny_mixer, rng):
    inside = tiny_mixer()
    outside = tiny_mixer(include_preprocessing=False)
    outside.set_weights(inside.get_weights())
    pixels = rng.uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(predict(inside, pixels), predict(outside, (pixels - 127.5) / 127.5), atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
def test_gradients_equal_finite_differences_of_the_oracle(tiny_mixer, rng, training):
    sizes = {"patch_size": 2, "hidden_dim": 4, "tokens_mlp_dim": 3, "channels_mlp_dim": 5, "input_shape": (4, 6, 3)}
    model = tiny_mixer(**sizes, classes=3, classifier_activation=None)
    pixels = rng.integers(0, 256, (2, 4, 6, 3), dtype=np.uint8)
    direction = rng.normal(size=(2, 3))
    weights = weights_of(model)
    for weight, gradient in zip(model.weights, gradients(model, pixels, direction, training), strict=True):
        probe = rng.normal(size=weight.shape)
        step = 1e-5
        up, down = ({**weights, weight.path: weights[weight.path] + sign * step * probe} for sign in (1, -1))
        difference = ((reference.mixer(pixels, up) - reference.mixer(pixels, down)) * direction).sum() / (2 * step)
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


def test_weight_names_are_the_contract(tiny_mixer):
    model = tiny_mixer(num_blocks=1)
    mlps = [
        f"mixer_block_0/{mlp}/dense_{i}/{part}"
        for mlp, i, part in itertools.product(("token_mixing", "channel_mixing"), (0, 1), ("kernel", "bias"))
    ]
    norms = [f"mixer_block_0/layer_norm_{i}/{part}" for i, part in itertools.product((0, 1), ("gamma", "beta"))]
    rest = ["stem/kernel", "stem/bias", "pre_head_layer_norm/gamma", "pre_head_layer_norm/beta"]
    assert {weight.path for weight in model.weights} == {*mlps, *norms, *rest, "head/kernel", "head/bias"}
    assert model.input.name == "image"
    assert model.layers[-1].name == "probabilities"


def test_a_new_head_is_zero_so_all_classes_are_equally_likely(rng):
    model = keras_mixer.Mixer(4, 1, 8, 4, 16, input_shape=(8, 8, 3), classes=5)
    pixels = rng.integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_allclose(predict(model, pixels), 0.2, atol=1e-7)


def test_kernels_start_as_lecun_normal():
    model = keras_mixer.Mixer(8, 1, 256, 128, 512, input_shape=(64, 64, 3))
    for weight in model.weights:
        values = weight.numpy()
        if weight.path.endswith("kernel") and weight.path != "head/kernel":
            fan_in = np.prod(values.shape[:-1])
            assert abs(values.std() * fan_in**0.5 - 1) < 0.03, weight.path


def test_outputs_without_the_head(tiny_mixer, rng):
    pixels = rng.integers(0, 256, (2, 16, 24, 3), dtype=np.uint8)
    options = {"input_shape": (16, 24, 3), "include_top": False}
    grid, vector = tiny_mixer(**options), tiny_mixer(**options, pooling="avg")
    vector.set_weights(grid.get_weights())
    assert grid.output_shape == (None, 4, 6, 32)
    assert vector.output_shape == (None, 32)
    np.testing.assert_allclose(predict(grid, pixels).mean((1, 2)), predict(vector, pixels), atol=1e-5)


def test_keras_file_gives_back_the_same_model(tiny_mixer, rng, tmp_path):
    model = tiny_mixer(dropout_rate=0.1, drop_path_rate=0.2)
    model.class_names = tuple("abcdefghij")
    model.evaluation_crop, model.trained_on = "resize", "my photographs"
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    pixels = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(predict(loaded, pixels), predict(model, pixels))
    assert loaded.class_names == model.class_names
    assert (loaded.evaluation_crop, loaded.trained_on) == ("resize", "my photographs")
    assert [block.drop_path_rates for block in loaded.layers if isinstance(block, MixerBlock)] == [
        block.drop_path_rates for block in model.layers if isinstance(block, MixerBlock)
    ]


def test_mixed_precision_computes_in_bfloat16_and_answers_in_float32(tiny_mixer, rng):
    exact = tiny_mixer(classifier_activation=None)
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        mixed = tiny_mixer(classifier_activation=None)
    finally:
        keras.config.set_dtype_policy("float32")
    mixed.set_weights(exact.get_weights())
    pixels = rng.integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    answer, expected = predict(mixed, pixels), predict(exact, pixels)
    assert answer.dtype == np.float32
    assert mixed.get_layer("mixer_block_1").token_mixing.dense_0.compute_dtype == "bfloat16"
    assert {str(weight.dtype) for weight in mixed.weights} == {"float32"}
    error = np.abs(answer - expected).max() / np.abs(expected).max()
    assert 1e-5 < error < 0.05


def test_stochastic_depth_rises_linearly_over_the_mlps(tiny_mixer):
    model = tiny_mixer(num_blocks=3, drop_path_rate=0.5)
    rates = [rate for block in model.layers if isinstance(block, MixerBlock) for rate in block.drop_path_rates]
    np.testing.assert_allclose(rates, np.linspace(0, 0.5, 6))


def test_stochastic_depth_drops_whole_examples_and_rescales_the_rest(rng):
    block = MixerBlock(8, 16, drop_path_rates=(0.5, 0.0))
    x = rng.normal(size=(64, 6, 4)).astype(np.float32)
    block(x)
    block.channel_mixing.dense_1.kernel.assign(np.zeros((16, 4)))
    full = keras.ops.convert_to_numpy(block(x)) - x
    dropped = keras.ops.convert_to_numpy(block(x, training=True)) - x
    kept = np.abs(dropped).max((1, 2)) > 0
    assert 10 < kept.sum() < 54
    np.testing.assert_allclose(dropped[kept], 2 * full[kept], atol=1e-5)


def test_dropout_only_in_training(tiny_mixer, rng):
    model = tiny_mixer(dropout_rate=0.5)
    pixels = rng.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
    np.testing.assert_array_equal(predict(model, pixels), predict(model, pixels))
    trained = keras.ops.convert_to_numpy(model(pixels, training=True))
    assert np.abs(trained - predict(model, pixels)).max() > 1e-3


@pytest.mark.parametrize(
    "layer",
    [
        keras_mixer.PatchEmbed((4, 8), 16, name="stem"),
        keras_mixer.MlpBlock(8, dropout_rate=0.1, name="mlp"),
        keras_mixer.MixerBlock(8, 16, dropout_rate=0.1, drop_path_rates=(0.1, 0.2), name="block"),
    ],
)
def test_layers_come_back_from_their_config(layer):
    copy = type(layer).from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_shape": (30, 32, 3)}, "28 or 32"),
        ({"input_shape": (32, 32)}, "height, width, channels"),
        ({"pooling": "max"}, "pooling"),
        ({"classes": 0}, "classes"),
        ({"dropout_rate": 1.0}, "dropout_rate"),
        ({"drop_path_rate": -0.1}, "drop_path_rate"),
        ({"hidden_dim": 0}, "hidden_dim"),
        ({"patch_size": 0}, "size"),
    ],
)
def test_arguments_out_of_range_are_refused(options, message):
    arguments = {"patch_size": 4, "num_blocks": 1, "hidden_dim": 8, "tokens_mlp_dim": 4, "channels_mlp_dim": 8}
    arguments |= {"input_shape": (32, 32, 3)} | options
    with pytest.raises(ValueError, match=message):
        keras_mixer.Mixer(**arguments)


@pytest.mark.parametrize(("policy", "tolerance"), [("float32", 1e-5), ("mixed_bfloat16", 3e-2)])
def test_layer_norm_is_the_plain_formula_far_from_zero_too(rng, policy, tolerance):
    layer = LayerNorm(epsilon=1e-6, dtype=policy)
    layer.build((3, 4, 32))
    gamma, beta = np.linspace(0.5, 2, 32), np.linspace(-1, 1, 32)
    layer.set_weights([gamma, beta])
    x = keras.ops.cast(5 + rng.normal(size=(3, 4, 32)), layer.compute_dtype)
    out = layer(x)
    assert keras.backend.standardize_dtype(out.dtype) == layer.compute_dtype
    x = np.asarray(keras.ops.cast(x, "float32"), np.float64)  # what is left of the numbers in this precision
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * gamma + beta
    np.testing.assert_allclose(np.asarray(keras.ops.cast(out, "float32")), expected, atol=tolerance)


@pytest.mark.parametrize("exact_gelu", [False, True])
@pytest.mark.parametrize(("policy", "tolerance"), [("float32", 1e-6), ("mixed_bfloat16", 3e-2)])
def test_the_mlp_is_the_same_in_training_and_after(rng, exact_gelu, policy, tolerance):
    x = rng.normal(size=(3, 6, 8)).astype("float32")
    layer = MlpBlock(16, exact_gelu=exact_gelu, dtype=policy)
    trained, used = (keras.ops.cast(layer(x, training=training), "float32") for training in (True, False))
    np.testing.assert_allclose(trained, used, atol=tolerance)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="about TensorFlow's graph optimizer")
@pytest.mark.parametrize("rows", [4, 1568])
def test_gelu_is_fused_with_the_product_where_tensorflow_can(rows):
    """Reads the executed graph: a block has a GELU of its own only where Keras's `Dense(activation=...)` has, too."""
    import tensorflow as tf
    from tensorflow.python.eager import context  # the optimized graph is public nowhere else

    def tangents(layer):
        x = tf.zeros((rows, 16))
        layer(x)  # builds it
        context.context().enable_run_metadata()
        tf.function(layer, jit_compile=False)(x)
        executed = context.context().export_run_metadata().function_graphs
        context.context().disable_run_metadata()
        operations = [node.op for graph in executed for node in graph.post_optimization_graph.node]
        assert any("MatMul" in operation for operation in operations)
        return operations.count("Tanh")

    dense = keras.layers.Dense(32, activation=lambda x: keras.activations.gelu(x, approximate=True))
    assert tangents(MlpBlock(32)) == tangents(dense)

"""What survives saving, cloning and copying by Keras: frozen layers, quantized layers, and what a model knows."""

import copy
import json
import operator
import pickle

import keras
import numpy as np
import pytest

import keras_mixer
from keras_mixer.export.runtimes import open_export

pytestmark = pytest.mark.backends

PIXELS = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)


def saved(model, folder):
    model.save(folder / "model.keras")
    return keras.saving.load_model(folder / "model.keras")


def clone_by_function(model, folder):
    return keras.models.clone_model(model, clone_function=lambda layer: type(layer).from_config(layer.get_config()))


def inside_a_model(model, folder):
    return saved(keras.Sequential([keras.Input((16, 16, 3)), model]), folder).layers[0]


WAYS = {
    "save": saved,
    "clone_model": lambda model, folder: keras.models.clone_model(model),
    "clone_model with a function": clone_by_function,
    "deepcopy": lambda model, folder: copy.deepcopy(model),
    "pickle": lambda model, folder: pickle.loads(pickle.dumps(model)),
    "config": lambda model, folder: type(model).from_config(model.get_config()),
    "JSON": lambda model, folder: keras.models.model_from_json(model.to_json()),
    "inside a model": inside_a_model,
}
BODY = ("stem", "mixer_block_0", "mixer_block_1", "pre_head_layer_norm")
TWO_SUBLAYERS = {"mixer_block_0.token_mixing": False, "mixer_block_1.channel_mixing.dense_1": False}
IN_A_FROZEN_BLOCK = {"": False, ".layer_norm_0": True, ".channel_mixing": True, ".channel_mixing.dense_1": False}
MIXED = {"stem": False, "mixer_block_2": False} | TWO_SUBLAYERS
MIXED |= {f"mixer_block_3{name}": value for name, value in IN_A_FROZEN_BLOCK.items()}
FROZEN = [  # blocks, what is set to trainable or not in this order, and how many weights remain trainable
    (4, MIXED, 54 - 2 - 12 - 4 - 2 - 12 + 2 + 2),
    (2, {"": False}, 0),
]


def answer(model, pixels=PIXELS):
    return keras.ops.convert_to_numpy(model(pixels))  # `predict` would compile every model


def set_trainable(model, changes):
    for path, value in changes.items():
        layer, _, inside = path.partition(".")
        part = model.get_layer(layer) if layer else model
        (operator.attrgetter(inside)(part) if inside else part).trainable = value


def paths(weights):
    return sorted(weight.path.split("mixer/")[-1] for weight in weights)


@pytest.mark.parametrize("way", WAYS)
def test_what_is_frozen_and_what_a_model_knows_survive(tiny_mixer, way, tmp_path):
    for blocks, changes, trainable in FROZEN:
        model = tiny_mixer(num_blocks=blocks, pixel_range=(0, 1), exact_gelu=True, include_preprocessing=False)
        model.class_names, model.evaluation_crop, model.trained_on = tuple("abcdefghij"), "resize", "my photographs"
        set_trainable(model, changes)
        found = WAYS[way](model, tmp_path)
        assert len(model.trainable_weights) == trainable
        assert paths(found.trainable_weights) == paths(model.trainable_weights), changes
        assert (found.class_names, found.evaluation_crop) == (tuple("abcdefghij"), "resize")
        assert (found.trained_on, found.pixel_range) == ("my photographs", (0, 1))
        assert found.get_layer("mixer_block_0").exact_gelu


def test_training_a_loaded_model_leaves_the_frozen_weights_alone(tiny_mixer, tmp_path):
    model = tiny_mixer()
    set_trainable(model, dict.fromkeys(BODY, False))
    loaded = saved(model, tmp_path)
    before = [weight.numpy() for weight in loaded.weights]
    loaded.compile("sgd", "sparse_categorical_crossentropy")
    loaded.fit(PIXELS, np.arange(4), verbose=0)
    changed = [w.path for w, old in zip(loaded.weights, before, strict=True) if not np.array_equal(w.numpy(), old)]
    assert sorted(changed) == ["head/bias", "head/kernel"]


@pytest.mark.parametrize(
    "layer", [keras_mixer.MixerBlock(8, 16), keras_mixer.MlpBlock(8), keras_mixer.PatchEmbed(2, 4)]
)
def test_a_layer_is_frozen_by_its_constructor_or_before_it_is_built(layer):
    image = keras.Input((4, 4, 4) if isinstance(layer, keras_mixer.PatchEmbed) else (6, 4))
    by_constructor = type(layer).from_config(layer.get_config() | {"trainable": False})
    before_built = type(layer).from_config(layer.get_config())
    before_built.trainable = False
    for frozen in (by_constructor, before_built):
        model = keras.Model(image, frozen(image))
        assert not model.trainable_weights
        frozen.trainable = True
        assert len(model.trainable_weights) == len(model.weights) > 0


def test_another_resolution_and_features_keep_layers_frozen(tiny_mixer):
    model = tiny_mixer()
    set_trainable(model, TWO_SUBLAYERS)
    wide = keras_mixer.change_resolution(model, (32, 16, 3))
    assert paths(wide.trainable_weights) == paths(model.trainable_weights)
    model.trainable = False
    model.get_layer("head").trainable = True
    assert not model.trainable_weights
    assert not keras_mixer.change_resolution(model, (32, 16, 3)).trainable_weights
    assert not keras_mixer.feature_extractor(model).trainable_weights


def test_class_names_are_names_of_the_classes(tiny_mixer):
    model = tiny_mixer(classes=3)
    model.class_names = np.array(["cat", "dog", "cow"])
    assert model.class_names == ("cat", "dog", "cow")
    json.dumps(model.get_config())
    for knows in (model, model.get_layer("head")):
        with pytest.raises(ValueError, match="2 class names were given for 3 classes"):
            knows.class_names = ("cat", "dog")
    assert model.class_names == ("cat", "dog", "cow")
    with pytest.raises(ValueError, match="no head"):
        tiny_mixer(include_top=False).class_names = ("cat",)


def test_the_legacy_format_which_could_not_be_loaded_is_refused(tiny_mixer, tmp_path):
    for name in ("model.h5", "model.hdf5"):
        with pytest.raises(ValueError, match=rf"End the path in \.keras, got .*{name}"):
            tiny_mixer().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_another_head_does_not_inherit_the_names(tiny_mixer):
    model = tiny_mixer(classes=3)
    model.class_names = ("cat", "dog", "cow")
    other = keras.layers.Dense(3, name="other_head")(model.get_layer("pool").output)
    assert getattr(keras.Model(model.input, other), "class_names", None) is None


class Gated(keras_mixer.MlpBlock):
    def __init__(self, mlp_dim, gate=0.5, **kwargs):
        super().__init__(mlp_dim, **kwargs)
        self.gate = gate

    def call(self, x, training=None):
        return self.gate * super().call(x, training)


def test_a_layer_of_ones_own_may_be_derived():
    x = np.ones((1, 2, 3), np.float32)
    layer = Gated(8, name="gated")
    copied = Gated.from_config(layer.get_config())
    assert (copied.mlp_dim, copied.gate, copied.name) == (8, 0.5, "gated")
    np.testing.assert_allclose(layer(x), 0.5 * keras_mixer.MlpBlock.call(layer, x))
    with pytest.raises(AttributeError, match=r"gate=0\.5 of layer 'gated' cannot be changed"):
        layer.gate = 1.0


def test_arguments_of_a_layer_cannot_be_changed():
    for layer, name, value in [
        (keras_mixer.PatchEmbed(4, 8), "patch_size", (2, 2)),
        (keras_mixer.PatchEmbed(4, 8), "pixel_range", (0, 1)),
        (keras_mixer.MlpBlock(8), "exact_gelu", True),
        (keras_mixer.MlpBlock(8), "dropout_rate", 0.5),
        (keras_mixer.MixerBlock(8, 16), "rematerialize", True),
        (keras_mixer.MixerBlock(8, 16), "drop_path_rates", (0.1, 0.1)),
    ]:
        with pytest.raises(AttributeError, match=rf"{name}.*cannot be changed. Make a new {type(layer).__name__}"):
            setattr(layer, name, value)


@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method implemented:UserWarning")
def test_a_quantized_model_is_saved_and_loaded(tiny_mixer, tmp_path, mode):
    model = tiny_mixer()
    model.quantize(mode)
    expected = answer(model)
    for found in (saved(model, tmp_path), copy.deepcopy(model)):
        np.testing.assert_array_equal(answer(found), expected)
    for refuse in (
        lambda: keras_mixer.save_official(model, tmp_path / "a.npz"),
        lambda: keras_mixer.change_resolution(model, (32, 16, 3)),
        lambda: keras_mixer.load_weights(model, tmp_path / "model.keras"),
    ):
        with pytest.raises(ValueError, match="is quantized"):
            refuse()
    assert not (tmp_path / "a.npz").exists()


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="exports are written on TensorFlow")
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method implemented:UserWarning")
def test_a_quantized_model_is_exported_right_or_refused(tiny_mixer, tmp_path):
    model = tiny_mixer()
    model.quantize("int8")
    served = open_export(keras_mixer.export_saved_model(model, tmp_path / "served"))
    np.testing.assert_allclose(served.probabilities(PIXELS), answer(model), atol=1e-5)
    with pytest.raises(ValueError, match="Keras has quantized the layer mixer_block_0"):
        keras_mixer.export_tflite(model, tmp_path / "a.tflite")
    with pytest.raises(ValueError, match="is quantized, so the model cannot compute in bfloat16"):
        keras_mixer.export_saved_model(model, tmp_path / "half", precision="bfloat16")
    assert {path.name for path in tmp_path.iterdir()} <= {"served", "half"}


def test_a_lora_update_is_part_of_the_kernel(tiny_mixer, tmp_path):
    model = tiny_mixer()
    for layer in (model.get_layer("mixer_block_0").channel_mixing.dense_0, model.get_layer("head")):
        layer.enable_lora(2)
        layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))
    expected = answer(model)
    np.testing.assert_allclose(answer(saved(model, tmp_path)), expected, atol=1e-6)
    keras_mixer.save_official(model, tmp_path / "lora.npz")
    for file in ("model.keras", "lora.npz"):
        found = keras_mixer.load_weights(tiny_mixer(), tmp_path / file)
        np.testing.assert_allclose(answer(found), expected, atol=1e-6)
    twice = answer(keras_mixer.change_resolution(model, (16, 32, 3)), np.concatenate([PIXELS, PIXELS], 2))
    np.testing.assert_allclose(twice, expected, atol=1e-5)
    with pytest.raises(ValueError, match="LoRA"):
        keras_mixer.load_weights(model, tmp_path / "lora.npz")


@pytest.fixture
def settings():
    """Keras's global settings, restored after the test."""
    before = keras.config.dtype_policy(), keras.config.floatx(), keras.config.image_data_format()
    yield
    keras.config.set_dtype_policy(before[0])
    keras.config.set_floatx(before[1])
    keras.config.set_image_data_format(before[2])


@pytest.mark.parametrize(
    ("setting", "value", "tolerance"),
    [
        (keras.config.set_image_data_format, "channels_first", 1e-6),
        (keras.config.set_floatx, "float64", 1e-6),
        (keras.config.set_floatx, "float16", 1e-6),
        (keras.config.set_dtype_policy, "float64", 1e-6),
        (keras.config.set_dtype_policy, "float16", 1e-2),
        (keras.config.set_dtype_policy, "mixed_float16", 1e-2),
        (keras.config.set_dtype_policy, "bfloat16", 5e-2),
        (keras.config.set_dtype_policy, "mixed_bfloat16", 5e-2),
    ],
)
def test_global_settings_of_keras_give_the_same_model(tiny_mixer, settings, setting, value, tolerance, tmp_path):
    model = tiny_mixer()
    expected = answer(model)
    setting(value)
    if value == "float64" and keras.backend.backend() == "jax" and setting is keras.config.set_dtype_policy:
        pytest.skip("JAX has float64 only where it is enabled")
    other = tiny_mixer()
    other.set_weights(model.get_weights())
    assert other.output_shape == (None, 10)
    for found in (other, saved(other, tmp_path)):
        np.testing.assert_allclose(answer(found), expected, atol=tolerance)
    features = keras_mixer.feature_extractor(other, ["pre_logits"])(PIXELS)["pre_logits"]
    assert keras.backend.standardize_dtype(features.dtype) in ("float32", "float64")
    wide = answer(keras_mixer.change_resolution(other, (16, 32, 3)), np.concatenate([PIXELS, PIXELS], 2))
    np.testing.assert_allclose(wide, expected, atol=tolerance)


def test_a_policy_that_quantizes_is_refused(tiny_mixer, settings):
    keras.config.set_dtype_policy("int8_from_float32")
    with pytest.raises(ValueError, match=r"int8_from_float32.*quantize"):
        tiny_mixer()

"""What survives saving, cloning and copying by Keras: every argument, frozen layers, and what a model knows."""

import copy
import functools
import json
import operator
import pickle

import keras
import numpy as np
import pytest

import keras_mixer
from keras_mixer.export.predictor import Predictor

PIXELS = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)


def saved(model, folder):
    model.save(folder / "model.keras")
    return keras.saving.load_model(folder / "model.keras")


WAYS = {
    "save": saved,
    "clone_model": lambda model, folder: keras.models.clone_model(
        model, clone_function=lambda layer: type(layer).from_config(layer.get_config())
    ),
    "deepcopy": lambda model, folder: copy.deepcopy(model),
    "pickle": lambda model, folder: pickle.loads(pickle.dumps(model)),
    "JSON": lambda model, folder: keras.models.model_from_json(model.to_json()),
    "inside a model": lambda model, folder: saved(keras.Sequential([keras.Input((16, 16, 3)), model]), folder).layers[
        0
    ],
}
CHANGED = {  # what is set to trainable or not, in this order
    **{"stem": False, "mixer_block_2": False},
    **{"mixer_block_0.token_mixing": False, "mixer_block_1.channel_mixing.dense_1": False},
    **{"mixer_block_3": False, "mixer_block_3.layer_norm_0": True, "mixer_block_3.channel_mixing": True},
    "mixer_block_3.channel_mixing.dense_1": False,
}
FROZEN = [(CHANGED, 54 - 2 - 12 - 4 - 2 - 12 + 2 + 2), ({"": False}, 0)]  # and how many weights remain trainable


def answer(model, pixels=PIXELS):
    return keras.ops.convert_to_numpy(model(pixels))  # `predict` would compile every model


def set_trainable(model, changes):
    for path, value in changes.items():
        layer, _, inside = path.partition(".")
        part = model.get_layer(layer) if layer else model
        (operator.attrgetter(inside)(part) if inside else part).trainable = value


def paths(weights):
    return sorted(weight.path.split("mixer/")[-1] for weight in weights)


@pytest.mark.backends
@pytest.mark.parametrize("way", WAYS)
def test_arguments_frozen_layers_and_what_a_model_knows_survive(tiny_mixer, way, tmp_path):
    form = {"pixel_range": (0, 1), "exact_gelu": True, "include_preprocessing": False}
    for changes, trainable in FROZEN:
        model = tiny_mixer(num_blocks=4, dropout_rate=0.1, drop_path_rate=0.2, **form)
        model.class_names, model.evaluation_crop, model.trained_on = tuple("abcdefghij"), "resize", "my photographs"
        set_trainable(model, changes)
        found = WAYS[way](model, tmp_path)
        assert len(model.trainable_weights) == trainable
        assert paths(found.trainable_weights) == paths(model.trainable_weights), changes
        assert (found.class_names, found.evaluation_crop) == (tuple("abcdefghij"), "resize")
        assert (found.trained_on, found.get_layer("stem").pixel_range) == ("my photographs", (0, 1))
        for name in ("stem", "mixer_block_0", "mixer_block_3"):
            assert found.get_layer(name).get_config() == model.get_layer(name).get_config()
    if way not in ("clone_model", "JSON"):  # which leave the weights out
        np.testing.assert_array_equal(answer(found), answer(model))


def test_a_loaded_model_trains_and_is_rebuilt_with_the_same_layers_frozen(tiny_mixer, tmp_path):
    model = tiny_mixer()
    set_trainable(model, dict.fromkeys(("stem", "mixer_block_0", "mixer_block_1", "pre_head_layer_norm"), False))
    loaded = saved(model, tmp_path)
    wide = keras_mixer.change_resolution(loaded, (32, 16, 3))
    assert paths(loaded.trainable_weights) == paths(wide.trainable_weights) == ["head/bias", "head/kernel"]
    before = {weight.path: weight.numpy() for weight in loaded.weights}
    loaded.compile("sgd", "sparse_categorical_crossentropy")
    loaded.fit(PIXELS, np.arange(4), verbose=0)
    changed = [weight for weight in loaded.weights if not np.array_equal(weight.numpy(), before[weight.path])]
    assert paths(changed) == ["head/bias", "head/kernel"]
    loaded.trainable = False
    for copied in (keras_mixer.change_resolution(loaded, (32, 16, 3)), keras_mixer.feature_extractor(loaded)):
        assert not copied.trainable_weights


def test_class_names_belong_to_a_head(tiny_mixer):
    model = tiny_mixer(classes=3)
    model.class_names = np.array(["cat", "dog", "cow"])
    json.dumps(model.get_config())
    with pytest.raises(ValueError, match="2 class names were given for 3 classes"):
        model.class_names = ("cat", "dog")
    assert model.class_names == ("cat", "dog", "cow")
    with pytest.raises(ValueError, match="ClassifierHead"):
        tiny_mixer(include_top=False).class_names = ("cat",)


def test_the_legacy_format_which_could_not_be_loaded_is_refused(tiny_mixer, tmp_path):
    with pytest.raises(ValueError, match=r"End the path in \.keras, got .*model\.h5"):
        tiny_mixer().save(tmp_path / "model.h5")
    assert not list(tmp_path.iterdir())


class Gated(keras_mixer.MlpBlock):
    def __init__(self, mlp_dim, gate=0.5, **kwargs):
        super().__init__(mlp_dim, **kwargs)
        self.gate = gate


def test_a_layer_may_be_derived_and_its_arguments_cannot_be_changed():
    layer, block = Gated(8, name="gated"), keras_mixer.MixerBlock(8, 16)
    copied = Gated.from_config(layer.get_config())
    assert (copied.mlp_dim, copied.gate, copied.name) == (8, 0.5, "gated")
    for changed, name in ((layer, "gate"), (block, "exact_gelu"), (block, "drop_path_rates")):
        with pytest.raises(AttributeError, match=rf"{name}.*cannot be changed. Make a new {type(changed).__name__}"):
            setattr(changed, name, 1)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method implemented:UserWarning")
@pytest.mark.parametrize("lora", [True, False])
def test_a_model_with_lora_or_quantized_by_keras_is_kept_but_not_exported(tiny_mixer, tmp_path, lora):
    model = tiny_mixer()
    if lora:
        dense = model.get_layer("mixer_block_0").channel_mixing.dense_0
        dense.enable_lora(2)
        dense.lora_kernel_b.assign(np.ones(dense.lora_kernel_b.shape))
    else:
        model.quantize("int8")
    np.testing.assert_allclose(answer(saved(model, tmp_path)), answer(model), atol=1e-6)
    model.save_weights(tmp_path / "own.weights.h5")
    for refuse in (
        lambda: keras_mixer.save_official(model, tmp_path / "a.npz"),
        lambda: keras_mixer.load_weights(model, tmp_path / "own.weights.h5"),
        lambda: keras_mixer.change_resolution(model, (32, 16, 3)),
        lambda: keras_mixer.feature_extractor(model),
        lambda: Predictor.of(model),
    ):
        with pytest.raises(ValueError, match=r"'mixer_block_0/.*' comes from quantization or LoRA"):
            refuse()
    assert not (tmp_path / "a.npz").exists()
    for file in ("own.weights.h5", "model.keras") if lora else ():  # Keras saves the sum
        merged = keras_mixer.load_weights(tiny_mixer(), tmp_path / file)
        np.testing.assert_allclose(answer(merged), answer(model), atol=1e-6)


@pytest.mark.backends
@pytest.mark.parametrize(
    ("name", "value", "tolerance"),
    [
        ("image_data_format", "channels_first", 1e-6),
        ("dtype_policy", "float64", 1e-6),
        ("dtype_policy", "mixed_float16", 1e-2),
        ("dtype_policy", "bfloat16", 5e-2),
    ],
)
def test_global_settings_of_keras_give_the_same_model(tiny_mixer, request, name, value, tolerance, tmp_path):
    model, setting = tiny_mixer(), getattr(keras.config, f"set_{name}")
    expected = answer(model)
    request.addfinalizer(functools.partial(setting, getattr(keras.config, name)()))
    setting(value)
    if value == "float64" and keras.backend.backend() == "jax":
        pytest.skip("JAX has float64 only where it is enabled")
    other = tiny_mixer()
    other.set_weights(model.get_weights())
    assert other.output.dtype in ("float32", "float64")
    for found in (other, saved(other, tmp_path)):
        np.testing.assert_allclose(answer(found), expected, atol=tolerance)
    assert tolerance < 1e-2 or np.abs(answer(other) - expected).max() > 1e-5  # it computes in that precision
    features = keras_mixer.feature_extractor(other, ["pre_logits"])(PIXELS)["pre_logits"]
    assert keras.backend.standardize_dtype(features.dtype) in ("float32", "float64")
    wide = answer(keras_mixer.change_resolution(other, (16, 32, 3)), np.concatenate([PIXELS, PIXELS], 2))
    np.testing.assert_allclose(wide, expected, atol=tolerance)

"""Mixers with layers of the user's: either everything about them is right, or it is refused."""

import keras
import numpy as np
import pytest

import keras_mixer
from keras_mixer.export.predictor import Predictor
from keras_mixer.export.runtimes import open_export

pytestmark = pytest.mark.backends
layers = keras.layers
tensorflow_only = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="exports are written on TensorFlow"
)
PIXELS = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3)).astype("float32")


@pytest.fixture
def body(tiny_mixer):
    return lambda **options: tiny_mixer(**{"include_top": False, "pooling": "avg"} | options)


def head_named_like_ours(body):
    base = body()
    return keras.Model(base.input, layers.Dense(5, activation="sigmoid", name="head")(base.output))


def layer_before_the_head(body):
    base = body()
    x = layers.Dense(5, name="head")(layers.UnitNormalization()(base.output))
    return keras.Model(base.input, layers.Activation("softmax", name="probabilities")(x))


def mixer_inside_a_model(body):
    image = keras.Input((16, 16, 3))
    x = body(pooling=None)(layers.RandomFlip("horizontal")(image), training=False)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(5, activation="softmax")(x))


def sequential(body):
    return keras.Sequential([keras.Input((16, 16, 3)), body(), layers.Dense(5, activation="softmax")])


def own_scaling(body):
    image = keras.Input((16, 16, 3))
    x = body(include_preprocessing=False)(layers.Rescaling(1 / 127.5, -1)(image))
    return keras.Model(image, layers.Dense(5, activation="softmax")(x))


def operations(body):
    image = keras.Input((16, 16, 3))
    logits = layers.Dense(5)(body(include_preprocessing=False)(image / 127.5 - 1.0))
    return keras.Model(image, keras.ops.softmax(logits, axis=-1))


def pixels_scaled_by_the_caller(body):
    base = body(include_preprocessing=False, pixel_range=(0, 1))
    return keras.Model(base.input, layers.Dense(5, activation="softmax")(base.output))


def logits_of_a_binary_loss(body):
    base = body()
    model = keras.Model(base.input, layers.Dense(5)(base.output))
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    return model


def half_precision(body):
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        return layer_before_the_head(body)
    finally:
        keras.config.set_dtype_policy("float32")


BUILDERS = (
    *(head_named_like_ours, layer_before_the_head, mixer_inside_a_model, sequential, own_scaling),
    *(operations, pixels_scaled_by_the_caller, logits_of_a_binary_loss, half_precision),
)


@pytest.fixture(params=BUILDERS, ids=lambda build: build.__name__)
def built(request, body, rng):
    model = request.param(body)
    for weight in next(found for found in model.layers[::-1] if isinstance(found, layers.Dense)).weights:
        weight.assign(rng.normal(size=weight.shape))
    return model


def probabilities(model, pixels):
    answer = model.predict(pixels / 255 if model.layers[0].name == "image" and _takes_01(model) else pixels, verbose=0)
    if getattr(model, "loss", None) is not None:
        answer = 1 / (1 + np.exp(-answer.astype(np.float64)))
    return answer


def _takes_01(model):
    return any(getattr(layer, "pixel_range", None) == (0, 1) for layer in model.layers)


def test_the_whole_model_is_used(built, request):
    tolerance = 2e-2 if "half_precision" in request.node.name else 1e-5
    answer = Predictor.of(built, class_names=tuple("abcde")).probabilities(PIXELS)
    np.testing.assert_allclose(answer, probabilities(built, PIXELS), atol=tolerance)


@tensorflow_only
@pytest.mark.parametrize("build", [mixer_inside_a_model, operations, layer_before_the_head])
def test_the_whole_model_is_exported(build, body, tmp_path):
    model, names = build(body), tuple("abcde")
    served = open_export(keras_mixer.export_saved_model(model, tmp_path / "served", class_names=names))
    file = open_export(keras_mixer.export_tflite(model, tmp_path / "model.tflite", class_names=names))
    for predictor in (served, file):
        np.testing.assert_allclose(predictor.probabilities(PIXELS), probabilities(model, PIXELS), atol=1e-5)
        assert predictor.class_names == names


def test_features_are_those_inside_the_model(body, rng):
    base = body()
    expected = base.predict(PIXELS, verbose=0)
    image = keras.Input((16, 16, 3))
    nested = keras.Model(image, layers.Dense(5)(base(image)))
    flat = keras.Model(base.input, layers.Dense(5)(layers.UnitNormalization()(base.output)))
    for model in (nested, flat):
        found = keras_mixer.feature_extractor(model, ["pre_logits", "block_1"]).predict(PIXELS, verbose=0)
        np.testing.assert_allclose(found["pre_logits"], expected, atol=1e-5)
        assert found["block_1"].shape == (4, 4, 4, 32)
        support = [(PIXELS, np.arange(4) % 2)]
        one, other = (keras_mixer.few_shot(m, support, support, shots=(1,), seeds=(0,)).mean(1) for m in (model, base))
        assert one == other


def test_a_model_inside_a_model_is_opened_once(body):
    """Calling a layer of the user's adds a node to it, which Keras never removes."""
    model = sequential(body)
    opened = model.layers[0].layers

    def nodes():
        return [len(layer._inbound_nodes) for layer in opened]

    keras_mixer.feature_extractor(model, ["stem"])
    before = nodes()
    for _ in range(2):
        keras_mixer.feature_extractor(model, ["stem"])
        Predictor.of(model).probabilities(PIXELS)
    assert nodes() == before


@pytest.mark.parametrize("build", [head_named_like_ours, layer_before_the_head, sequential, operations])
def test_another_resolution_keeps_the_users_layers(build, body):
    model = build(body)
    wide = keras_mixer.change_resolution(model, (32, 16, 3)).predict(np.concatenate([PIXELS, PIXELS], 1), verbose=0)
    np.testing.assert_allclose(wide, model.predict(PIXELS, verbose=0), atol=1e-5)


def adapter_between_blocks(model):
    x = layers.Dense(32, name="adapter")(model.get_layer("mixer_block_0").output)
    for name in ("mixer_block_1", "pre_head_layer_norm", "pool", "head", "probabilities"):
        x = model.get_layer(name)(x)
    return keras.Model(model.input, x)


def block_used_twice(model):
    x = model.get_layer("mixer_block_0")(model.get_layer("mixer_block_0").output)
    for name in ("mixer_block_1", "pre_head_layer_norm", "pool", "head", "probabilities"):
        x = model.get_layer(name)(x)
    return keras.Model(model.input, x)


def other_norm(model):
    x = layers.LayerNormalization(name="my_norm")(model.get_layer("mixer_block_1").output)
    for name in ("pool", "head", "probabilities"):
        x = model.get_layer(name)(x)
    return keras.Model(model.input, x)


def skip_connection(model):
    x = layers.Add(name="skip")([model.get_layer("tokens").output, model.get_layer("mixer_block_1").output])
    for name in ("pre_head_layer_norm", "pool", "head", "probabilities"):
        x = model.get_layer(name)(x)
    return keras.Model(model.input, x)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (adapter_between_blocks, "'adapter'"),
        (block_used_twice, "used more than once"),
        (other_norm, "'my_norm'"),
        (skip_connection, "'skip' has 2 inputs"),
    ],
)
def test_another_body_is_refused_everywhere(tiny_mixer, tmp_path, change, said):
    model = change(tiny_mixer())
    exports = (  # written on TensorFlow only
        lambda: keras_mixer.export_saved_model(model, tmp_path / "served"),
        lambda: keras_mixer.export_tflite(model, tmp_path / "a.tflite"),
    )
    for refuse in (
        *(exports if keras.backend.backend() == "tensorflow" else ()),
        lambda: keras_mixer.feature_extractor(model),
        lambda: keras_mixer.change_resolution(model, (32, 16, 3)),
        lambda: keras_mixer.few_shot(model, [], []),
        lambda: keras_mixer.save_official(model, tmp_path / "a.npz"),
        lambda: keras_mixer.load_weights(model, tmp_path / "a.npz"),
    ):
        with pytest.raises(ValueError, match=f"is not a Mixer of this package: .*{said}"):
            refuse()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("build", [head_named_like_ours, layer_before_the_head, sequential, own_scaling])
def test_weights_are_for_mixers_without_other_layers(build, body, tmp_path):
    model = build(body)
    for refuse in (
        lambda: keras_mixer.save_official(model, tmp_path / "a.npz"),
        lambda: keras_mixer.load_weights(model, tmp_path / "a.npz"),
    ):
        with pytest.raises(ValueError, match=f"model '{model.name}' has other layers too"):
            refuse()
    assert not list(tmp_path.iterdir())


def test_a_file_with_other_layers_says_what_to_save(body, tiny_mixer, tmp_path):
    sequential(body).save(tmp_path / "a.keras")
    message = r"load_weights from .*a\.keras .* Save model\.get_layer\('mixer'\) to a file, and load that\.$"
    with pytest.raises(ValueError, match=message):
        keras_mixer.load_weights(tiny_mixer(), tmp_path / "a.keras")


@pytest.mark.parametrize("build", [mixer_inside_a_model, sequential, own_scaling])
def test_a_mixer_inside_a_model_is_named(build, body, tiny_mixer, tmp_path):
    model = build(body)
    keras_mixer.save_official(tiny_mixer(), tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"Pass model\.get_layer\('mixer'\)\.$"):
        keras_mixer.load_weights(model, tmp_path / "a.npz")
    keras_mixer.load_weights(model.get_layer("mixer"), tmp_path / "a.npz")


@keras.saving.register_keras_serializable("tests")
class WithOwnStep(keras_mixer.MixerModel):
    """Counts its steps."""

    steps = 0

    def train_step(self, *arguments):
        self.steps += 1
        return super().train_step(*arguments)


@tensorflow_only
def test_a_model_with_a_train_step_of_its_own_is_a_mixer(tiny_mixer, tmp_path):
    base = tiny_mixer(classes=3)
    base.class_names = ("a", "b", "c")
    model = WithOwnStep(base.inputs, base.outputs)
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    model.fit(PIXELS, np.arange(4) % 3, batch_size=2, verbose=0)
    assert model.steps == 2
    keras_mixer.save_official(model, tmp_path / "a.npz")
    model.save(tmp_path / "own.keras")
    loaded = keras.saving.load_model(tmp_path / "own.keras")
    assert isinstance(loaded, WithOwnStep)
    assert loaded.class_names == model.class_names == ("a", "b", "c")
    served = open_export(keras_mixer.export_tflite(loaded, tmp_path / "own.tflite"))
    np.testing.assert_allclose(served.probabilities(PIXELS), model.predict(PIXELS, verbose=0), atol=1e-5)


def test_a_head_of_another_name_is_a_head(body, tiny_mixer, tmp_path):
    base = body()
    model = keras.Model(base.input, layers.Activation("softmax")(layers.Dense(10, name="my_classes")(base.output)))
    keras_mixer.save_official(model, tmp_path / "a.npz")
    again = keras_mixer.load_weights(tiny_mixer(), tmp_path / "a.npz")
    np.testing.assert_allclose(again.predict(PIXELS, verbose=0), model.predict(PIXELS, verbose=0), atol=1e-6)


@tensorflow_only
def test_pixels_that_other_layers_change_are_refused(body, tmp_path):
    image = keras.Input((16, 16, 3))
    model = keras.Model(image, layers.Dense(5, activation="softmax")(body()(layers.Rescaling(0.5, name="dark")(image))))
    with pytest.raises(ValueError, match=r"changes pixels before the stem.*'dark'"):
        keras_mixer.export_tflite(model, tmp_path / "a.tflite")

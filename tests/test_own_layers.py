"""Mixers with layers of the user's: either everything about them is right, or it is refused."""

import keras
import numpy as np
import pytest

import keras_mixer
from keras_mixer.anatomy import Anatomy
from keras_mixer.export.predictor import Predictor
from keras_mixer.export.runtimes import open_export

layers = keras.layers
PIXELS = np.random.default_rng(1).integers(0, 256, (4, 16, 16, 3)).astype("float32")
NAMES = tuple("abcde")


@pytest.fixture
def body(tiny_mixer):
    return lambda **options: tiny_mixer(**{"include_top": False, "pooling": "avg"} | options)


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


def operations(body):
    image = keras.Input((16, 16, 3))
    logits = layers.Dense(5)(body(include_preprocessing=False)(image / 127.5 - 1.0))
    return keras.Model(image, keras.ops.softmax(logits, axis=-1))


def pixels_scaled_by_the_caller(body):
    base = body(include_preprocessing=False, pixel_range=(0, 1))
    return keras.Model(base.input, layers.Dense(5, activation="softmax")(base.output))


BUILDERS = (layer_before_the_head, mixer_inside_a_model, sequential, operations, pixels_scaled_by_the_caller)


@pytest.mark.backends
@pytest.mark.parametrize("build", BUILDERS, ids=lambda build: build.__name__)
def test_the_whole_model_is_used_widened_and_kept_apart_from_official_weights(build, body, rng, tmp_path):
    model = build(body)
    for weight in next(found for found in model.layers[::-1] if isinstance(found, layers.Dense)).weights:
        weight.assign(rng.normal(size=weight.shape))
    answer = model.predict(PIXELS / 255 if build is pixels_scaled_by_the_caller else PIXELS, verbose=0)
    predictor = Predictor.of(model, class_names=NAMES)
    np.testing.assert_allclose(predictor.probabilities(PIXELS), answer, atol=1e-5)
    wide = Predictor.of(keras_mixer.change_resolution(model, (32, 16, 3)))
    two = wide.probabilities(np.concatenate([PIXELS, PIXELS], 1))
    np.testing.assert_allclose(two, answer, atol=1e-5)
    if build in (layer_before_the_head, sequential):
        for refuse in (keras_mixer.save_official, keras_mixer.load_weights):
            with pytest.raises(ValueError, match=f"model '{model.name}' has other layers too"):
                refuse(model, tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


def test_the_whole_model_is_exported(body, tmp_path):
    model = mixer_inside_a_model(body)
    served = open_export(keras_mixer.export_saved_model(model, tmp_path / "served", class_names=NAMES))
    file = open_export(keras_mixer.export_tflite(model, tmp_path / "model.tflite", class_names=NAMES))
    for predictor in (served, file):
        np.testing.assert_allclose(predictor.probabilities(PIXELS), model.predict(PIXELS, verbose=0), atol=1e-5)
        assert predictor.class_names == NAMES


def test_features_are_those_inside_the_model(body):
    base, image = body(), keras.Input((16, 16, 3))
    expected = base.predict(PIXELS, verbose=0)
    nested = keras.Model(image, layers.Dense(5)(base(image)))
    flat = keras.Model(base.input, layers.Dense(5)(layers.UnitNormalization()(base.output)))
    for model in (nested, flat):
        found = keras_mixer.feature_extractor(model, ["pre_logits", "block_1"]).predict(PIXELS, verbose=0)
        np.testing.assert_allclose(found["pre_logits"], expected, atol=1e-5)
        assert found["block_1"].shape == (4, 4, 4, 32)


BODY = ("mixer_block_1", "pre_head_layer_norm", "pool", "head", "probabilities")


def continued(model, x, names):
    for name in names:
        x = model.get_layer(name)(x)
    return keras.Model(model.input, x)


OTHER_BODIES = {  # what is said, and the tensor and the layers after it
    "'adapter'": lambda get: (layers.Rescaling(0.3, name="adapter")(get("mixer_block_0").output), BODY),
    "used more than once": lambda get: (get("mixer_block_0")(get("mixer_block_0").output), BODY),
    "'my_norm'": lambda get: (layers.LayerNormalization(name="my_norm")(get("mixer_block_1").output), BODY[2:]),
    "'skip' has 2 inputs": lambda get: (
        layers.Add(name="skip")([get("tokens").output, get("mixer_block_1").output]),
        BODY[1:],
    ),
}


@pytest.mark.parametrize("said", OTHER_BODIES)
def test_another_body_is_refused_everywhere(tiny_mixer, tmp_path, said):
    plain = tiny_mixer()
    model = continued(plain, *OTHER_BODIES[said](plain.get_layer))
    for refuse in (
        lambda: Predictor.of(model),  # and so every export
        lambda: keras_mixer.feature_extractor(model),
        lambda: keras_mixer.change_resolution(model, (32, 16, 3)),
        lambda: keras_mixer.few_shot(model, [], []),
        lambda: keras_mixer.save_official(model, tmp_path / "a.npz"),
        lambda: keras_mixer.load_weights(model, tmp_path / "a.npz"),
    ):
        with pytest.raises(ValueError, match=f"is not a Mixer of this package: .*{said}"):
            refuse()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("build", [mixer_inside_a_model, sequential])
def test_a_mixer_inside_a_model_is_named(build, body, tiny_mixer, tmp_path):
    model, file = build(body), keras_mixer.save_official(tiny_mixer(), tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"Use model\.get_layer\('mixer'\)\.$"):
        keras_mixer.load_weights(model, file)
    keras_mixer.load_weights(model.get_layer("mixer"), file)
    model.save(tmp_path / "a.keras")
    message = r"load_weights from .*a\.keras .* Use model\.get_layer\('mixer'\)\.$"
    with pytest.raises(ValueError, match=message):
        keras_mixer.load_weights(tiny_mixer(), tmp_path / "a.keras")


@keras.saving.register_keras_serializable("tests")
class WithOwnStep(keras_mixer.MixerModel):
    def train_step(self, *arguments):
        return super().train_step(*arguments) | {"own": 1}


def test_a_model_with_a_train_step_of_its_own_is_a_mixer(tiny_mixer, tmp_path):
    base = tiny_mixer(classes=3)
    base.class_names = ("a", "b", "c")
    model = WithOwnStep(base.inputs, base.outputs)
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    assert model.fit(PIXELS, np.arange(4) % 3, verbose=0).history["own"] == [1]
    model.save(tmp_path / "own.keras")
    loaded = keras.saving.load_model(tmp_path / "own.keras")
    assert isinstance(loaded, WithOwnStep)
    assert Predictor.of(loaded).class_names == model.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(loaded.predict(PIXELS, verbose=0), model.predict(PIXELS, verbose=0))


def test_pixels_that_other_layers_change_are_refused(body):
    image = keras.Input((16, 16, 3))
    dark = layers.Rescaling(0.5, name="dark")(image)
    model = keras.Model(image, layers.Dense(5, activation="softmax")(body()(dark)))
    plain = keras_mixer.MixerModel(image, Anatomy(body(include_preprocessing=False)).apply(dark)[-1])
    for refuse in (lambda: Predictor.of(model), lambda: keras_mixer.load_weights(plain, "imagenet1k")):
        with pytest.raises(ValueError, match=r"changes pixels before the stem.*'dark'"):
            refuse()

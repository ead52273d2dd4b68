"""Distillation: the loss, what may be a teacher, and any number of devices."""

import dataclasses
import re

import keras
import numpy as np
import pytest
from image_files import write_folder

import keras_mixer
from keras_mixer.data.image_folder import write_files
from keras_mixer.data.sources import load_source
from keras_mixer.files import write_json
from keras_mixer.training.devices import choose_devices
from keras_mixer.training.inputs import known_images, load_recipe_source
from keras_mixer.training.optimizers import build_loss, build_optimizer, build_schedule
from keras_mixer.training.recipes import resolve
from keras_mixer.training.teacher import Teacher
from keras_mixer.training.training_model import TrainingModel

pytestmark = pytest.mark.backends

SGD = {"optimizer": "sgd", "learning_rate": 0.1, "warmup_steps": 0, "clip_norm": None}
SHAPE = (2, 2, 3)


def linear(classes=3, activation=None, shape=SHAPE, kind=keras.Model):
    image = keras.Input(shape)
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
    return kind(image, keras.layers.Dense(classes, activation=activation)(flat))


def saved(tmp_path, model):
    model.save(tmp_path / "teacher.keras")
    return str(tmp_path / "teacher.keras")


def train(weights, teacher, devices="cpu"):
    """Weights and loss of a linear student after three steps of temperature 2 on random images."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (24, *SHAPE)).astype("float32")
    y, importance = np.eye(3, dtype="float32")[rng.integers(0, 3, 24)], rng.uniform(size=24).astype("float32")
    devices, recipe = choose_devices(devices), resolve("digits", **SGD)
    with devices.scope():
        student = linear(kind=TrainingModel)
        student.set_weights(weights)
        student.teacher, student.teacher_temperature = Teacher(teacher), 2.0
        student.compile(build_optimizer(recipe, 10), build_loss(recipe), jit_compile=False)
        history = student.fit(x, y, sample_weight=importance, batch_size=8, shuffle=False, verbose=0)
        assert len(student.variables) == len(weights)  # none of the teacher's
    return student.get_weights(), history.history["loss"][0], x, importance


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_steps_follow_the_rule_in_numpy_on_any_number_of_devices(tmp_path, activation):
    teacher = linear(activation=activation)
    kernel, bias = weights = linear().get_weights()
    path = saved(tmp_path, teacher)
    one, loss, x, importance = train(weights, path)

    def softmax(inputs, kernel, bias):
        powers = np.exp((inputs @ kernel + bias) / 2)
        return powers / powers.sum(1, keepdims=True)

    recipe, momentum, losses = resolve("digits", **SGD), (0.0, 0.0), []
    schedule = build_schedule(recipe, 10)
    for step, (images, weight) in enumerate(zip(x.reshape(3, 8, -1) / 255.0, importance.reshape(3, 8, 1), strict=True)):
        wanted, found = softmax(images, *teacher.get_weights()), softmax(images, kernel, bias)
        losses.append((4 * weight * wanted * np.log(wanted / found)).sum() / 8)
        delta = 2 * weight * (found - wanted) / 8
        rate = float(schedule(step))
        decay = rate * recipe.weight_decay * kernel
        momentum = [0.9 * m - rate * g for m, g in zip(momentum, (images.T @ delta, delta.sum(0)), strict=True)]
        kernel, bias = kernel - decay + momentum[0], bias + momentum[1]
    assert loss == pytest.approx(np.mean(losses), rel=1e-5)
    for weight, expected in zip(one, (kernel, bias), strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-6)
    several, loss_of_several, _, _ = train(weights, path, "2" if keras.backend.backend() == "tensorflow" else "4")
    assert loss_of_several == pytest.approx(loss, rel=1e-5)
    for weight, expected in zip(several, one, strict=True):
        np.testing.assert_allclose(weight, expected, atol=1e-6)


def test_a_teacher_sees_images_of_its_own_size(tmp_path, rng):
    model = linear(shape=(4, 6, 3))
    images = rng.integers(0, 256, (5, *SHAPE)).astype("float32")
    resized = keras.ops.image.resize(images, (4, 6), "bilinear")
    found = Teacher(saved(tmp_path, model))(keras.ops.convert_to_tensor(images))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), model.predict(resized, verbose=0), atol=1e-5)


def test_what_cannot_teach_is_refused_before_anything_is_written(tmp_path):
    def refused(teacher, match):
        with pytest.raises(ValueError, match=match):
            keras_mixer.fit("digits", workdir=tmp_path / "run", teacher=str(teacher), log=lambda line: None)
        assert not (tmp_path / "run").exists()

    refused(tmp_path / "none.keras", "neither a finished run directory nor a .keras file")
    (tmp_path / "damaged.keras").write_bytes(b"PK")
    refused(tmp_path / "damaged.keras", "cannot be loaded: .*damaged.keras")
    refused(saved(tmp_path, linear(activation="sigmoid")), "without activation, got .* and the activation 'sigmoid'")
    refused(saved(tmp_path, linear(shape=(2, 2, 1))), "Expected a teacher with one input")
    with pytest.raises(ValueError, match="The teacher has 3 classes, the student 10"):
        Teacher(saved(tmp_path, linear())).check_classes(10, None)
    with pytest.raises(ValueError, match="works only with loss 'softmax'"):
        resolve("digits", teacher="a.keras", loss="sigmoid")


def test_a_run_that_may_know_the_test_images_is_named(tmp_path):
    source = load_source("digits")

    def said(teacher, **split):
        write_json(tmp_path / "config.json", dataclasses.asdict(resolve("digits", **teacher)))
        return known_images(tmp_path, resolve("digits", **split), source)

    assert said({}) == ""
    assert said({"holdout": 1 / 12}, holdout=0.0833333) == ""
    assert said({"holdout": 0.1}) == ""  # the teacher has seen less
    assert said({"data": "fashion_mnist"}, holdout=0.1) == ""
    for teacher, split in (({}, {"holdout": 0.1}), ({"holdout": 0.1}, {"holdout": 0.2}), ({}, {"split_seed": 1})):
        assert said(teacher, **split).startswith(f"{tmp_path} was trained on another part of digits")
    assert known_images("imagenet21k", resolve("digits", holdout=0.1), source) == ""


def test_a_run_that_knows_test_images_of_a_folder_is_named_wherever_the_folder_is(tmp_path):
    write_folder(tmp_path / "photos", images_per_class=10, parts=())
    recipe = resolve("digits", data=str(tmp_path / "photos"))
    run = tmp_path / "run"
    run.mkdir()
    write_json(run / "config.json", dataclasses.asdict(recipe))
    write_files(run / "files.csv", load_recipe_source(recipe, log=str))
    (tmp_path / "photos").rename(tmp_path / "pictures")

    def said(**fields):
        other = dataclasses.replace(recipe, data=str(tmp_path / "pictures"), **fields)
        return known_images(run, other, load_recipe_source(other, log=str))

    assert said() == ""
    assert re.fullmatch(
        rf"{run} learned \d of the 4 test images of this run: the accuracy may be too high.", said(split_seed=3)
    )
    assert "learned 4 of the 4 held-out images" in said(holdout=0.25)


def test_the_same_classes_in_another_order_are_refused(tmp_path, tiny_mixer):
    model = tiny_mixer(num_blocks=1, classes=2, include_preprocessing=False)
    model.class_names = ("cat", "dog")
    teacher = Teacher(saved(tmp_path, model))
    assert "preprocessing" in {layer.name for layer in teacher.model.layers}
    teacher.check_classes(2, ("cat", "dog"))
    with pytest.raises(ValueError, match="classes in the order"):
        teacher.check_classes(2, ("dog", "cat"))

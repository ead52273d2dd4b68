"""Sharpness-aware minimization: the rule, its random masks, and any number of devices."""

import keras
import numpy as np
import pytest

from keras_mixer.training.devices import choose_devices
from keras_mixer.training.optimizers import build_loss, build_optimizer
from keras_mixer.training.recipes import resolve
from keras_mixer.training.training_model import TrainingModel

pytestmark = pytest.mark.backends

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
SGD = {"optimizer": "sgd", "learning_rate": 0.1, "warmup_steps": 0, "weight_decay": 0.0, "label_smoothing": 0.0}


def softmax_gradient(weights, x, y):
    """Of the mean cross-entropy of a linear classifier, and that cross-entropy."""
    kernel, bias = weights
    logits = x @ kernel + bias
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    delta = (probabilities - y) / len(x)
    return [x.T @ delta, delta.sum(0)], -(y * np.log(probabilities)).sum(1).mean()


@pytest.mark.parametrize("clip_norm", [None, 0.2])
def test_updates_equal_the_rule_in_numpy(clip_norm, rng):
    x, y = rng.normal(size=(8, 4)), np.eye(3)[rng.integers(0, 3, 8)]
    weights = [rng.normal(size=(4, 3)), rng.normal(size=3)]
    inputs = keras.Input((4,))
    model = TrainingModel(inputs, keras.layers.Dense(3)(inputs))
    model.sam_rho = 0.5
    model.set_weights(weights)
    recipe = resolve("digits", **SGD, clip_norm=clip_norm)
    model.compile(build_optimizer(recipe, 10), build_loss(recipe), weighted_metrics=["accuracy"], jit_compile=False)
    momentum = [0.0, 0.0]
    for step in range(3):
        at_start, loss = softmax_gradient(weights, x, y)
        norm = np.sqrt(sum((g**2).sum() for g in at_start))
        nearby = [w + 0.5 * g / norm for w, g in zip(weights, at_start, strict=True)]
        gradients, _ = softmax_gradient(nearby, x, y)
        norm = np.sqrt(sum((g**2).sum() for g in gradients))
        rate = float(model.optimizer.learning_rate)
        scale = 1 if clip_norm is None else min(1, clip_norm / norm)
        momentum = [0.9 * m - rate * scale * g for m, g in zip(momentum, gradients, strict=True)]
        weights = [w + m for w, m in zip(weights, momentum, strict=True)]
        logs = model.train_on_batch(x.astype("float32"), y.astype("float32"), return_dict=True)
        assert logs["loss"] == pytest.approx(loss, rel=1e-5) or step  # later ones are means
        assert float(model.optimizer.gradient_norm.numpy()) == pytest.approx(norm, rel=1e-5)
        for weight, expected in zip(model.get_weights(), weights, strict=True):
            np.testing.assert_allclose(weight, expected, atol=1e-6)


def start(tiny_mixer, **options):
    return tiny_mixer(num_blocks=1, hidden_dim=8, classes=3, classifier_activation=None, **options)


def train(model, devices="cpu", **options):
    """Weights after three steps on random images, from those of a model."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (24, 16, 16, 3)).astype("float32")
    y = np.eye(3, dtype="float32")[rng.integers(0, 3, 24)]
    devices = choose_devices(devices)
    with devices.scope():
        recipe = resolve("digits", global_batch_size=8, steps=10, **SGD, **options)
        trainee = TrainingModel.of(model, recipe, 24, devices)
        trainee.prepare()
        trainee.fit(x, y, batch_size=8, shuffle=False, verbose=0)
    return trainee.get_weights()


def apart(one, other):
    return max(np.abs(a - b).max() for a, b in zip(one, other, strict=True))


def test_several_devices_perturb_like_one(tiny_mixer):
    model = start(tiny_mixer)
    one = train(model, sam_rho=0.2, ema_momentum=0.9)
    several = train(model, "2" if ON_TENSORFLOW else "4", sam_rho=0.2, ema_momentum=0.9, rematerialize=True)
    assert apart(one, train(model)) > 1e-3
    assert apart(one, several) <= 1e-6


def test_both_passes_draw_the_same_masks_and_each_step_draws_others(tiny_mixer):
    """A perturbation of almost nothing trains like none: the random states are those of a plain step."""
    model = start(tiny_mixer, dropout_rate=0.3, drop_path_rate=0.3)
    assert apart(train(model, sam_rho=1e-7), train(model)) <= 1e-6


def test_the_gradients_of_both_passes_may_be_accumulated(tiny_mixer):
    model = start(tiny_mixer)
    assert apart(train(model, sam_rho=0.2, accumulation_steps=4), train(model, sam_rho=0.2)) <= 1e-6

import contextlib

import keras
import numpy as np
import pytest

from keras_mixer.training.optimizers import WarmupDecay, build_loss, build_optimizer, sigmoid_cross_entropy
from keras_mixer.training.recipes import resolve

pytestmark = pytest.mark.backends

BASE = {"learning_rate": 0.01, "warmup_steps": 4, "weight_decay": 0.1, "clip_norm": 1.0}


def rate_at(recipe, step):
    """The learning rate of a step in float64, by the formula of the recipe's schedule."""
    warmup, total_steps = recipe.warmup_steps, recipe.steps
    progress = max(step - warmup, 0) / (total_steps - warmup)
    decay = {
        "cosine": (1 + np.cos(np.pi * progress)) / 2,
        "linear": 1 + progress * (1e-5 - 1),
        "staircase": 0.1 ** sum(10 * step >= tenths * total_steps for tenths in (4, 6, 8)),
    }
    return recipe.learning_rate * decay[recipe.schedule] * (min(step / warmup, 1) if warmup else 1)


def orthogonalized(matrix):
    """Five Newton-Schulz steps of Muon: about U V^T of the singular value decomposition U S V^T."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
    return x


@pytest.mark.parametrize(
    ("optimizer", "clip_norm", "schedule", "start"),  # an optimizer starts at a later step of the run too
    [
        *(("adamw", 0.5, "cosine", 0), ("adamw", None, "linear", 500), ("sgd", 0.5, "staircase", 0)),
        *(("muon", 0.5, "linear", 0), ("muon", 0.5, "cosine", 500)),
    ],
)
def test_ten_updates_equal_the_rule_in_numpy(optimizer, clip_norm, schedule, start, rng, monkeypatch):
    options = {"optimizer": optimizer, "clip_norm": clip_norm, "schedule": schedule, "steps": start + 12}
    recipe = resolve("digits", **(BASE | options))
    shapes = {"block/kernel": (3, 4), "stem/kernel": (2, 2, 3, 4), "head/kernel": (4, 3), "bias": 4, "gamma": 4}
    values = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    variables = []
    for path, value in values.items():
        scope, _, name = path.rpartition("/")
        with keras.name_scope(scope) if scope else contextlib.nullcontext():
            variables.append(keras.Variable(value, name=name, dtype="float32"))
    rule, last = build_optimizer(recipe, start), start + 10
    first, second, asked, rates = *(dict.fromkeys(values, 0.0) for _ in range(2)), [], WarmupDecay.__call__
    monkeypatch.setattr(WarmupDecay, "__call__", lambda *arguments: (asked.append(step), rates(*arguments))[1])
    rule.build(variables)
    asked.clear()
    for step in range(start, last):
        gradients = {name: rng.normal(size=value.shape) for name, value in values.items()}
        rule.apply([keras.ops.convert_to_tensor(g.astype("float32")) for g in gradients.values()], variables)
        norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
        assert float(rule.gradient_norm.numpy()) == pytest.approx(norm, rel=1e-6)  # before clipping
        rate, own = rate_at(recipe, step), step + 1 - start
        for name, gradient in gradients.items():
            if clip_norm is not None:
                gradient = gradient * min(1, clip_norm / norm)
            decay = rate * 0.1 * values[name] if "kernel" in name else 0.0
            if optimizer == "muon" and name == "block/kernel":
                first[name] = 0.95 * first[name] + gradient
                direction = orthogonalized(gradient + 0.95 * first[name])
                values[name] = values[name] - decay - rate * 0.2 * 4**0.5 * direction  # 4: the longer side
            elif optimizer != "sgd":
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient**2
                mean, square = first[name] / (1 - 0.9**own), second[name] / (1 - 0.999**own)
                values[name] = values[name] - decay - rate * mean / (np.sqrt(square) + 1e-8)
            else:
                first[name] = 0.9 * first[name] - rate * gradient
                values[name] = values[name] - decay + first[name]
    for variable, expected in zip(variables, values.values(), strict=True):
        np.testing.assert_allclose(variable.numpy(), expected, rtol=0, atol=1e-6)
    assert asked == list(range(start, last))  # once a step, although each kernel decays


def test_the_running_average_follows_its_formula_and_is_taken_when_asked(rng):
    variable = keras.Variable(np.zeros(3), name="kernel")
    rule = build_optimizer(resolve("digits", **(BASE | {"ema_momentum": 0.8, "steps": 24})))
    average = None
    for _ in range(5):
        rule.apply([keras.ops.convert_to_tensor(rng.normal(size=3).astype("float32"))], [variable])
        value = variable.numpy()
        average = value if average is None else 0.8 * average + 0.2 * value
    rule.finalize_variable_values([variable])  # Keras, at the end of every fit
    np.testing.assert_array_equal(variable.numpy(), value)
    rule.take_average([variable])
    np.testing.assert_allclose(variable.numpy(), average, atol=1e-7)


def test_losses_equal_their_formulas_without_overflow():
    logits = np.array([[-6.9, 0.0, 50.0], [200.0, -200.0, 1.0]], np.float32)
    labels = np.array([[0, 1, 0.5], [1, 0, 0]], np.float32)
    expected = (np.logaddexp(0, logits.astype(np.float64)) - logits * labels).sum(1)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(sigmoid_cross_entropy(labels, logits)), expected, rtol=1e-6)
    logits = np.array([[2.0, 0.0]], np.float32)
    log_p = logits[0] - np.log(np.exp(logits[0]).sum())
    smooth = build_loss(resolve("digits", label_smoothing=0.1))(np.array([[1.0, 0.0]], np.float32), logits)
    assert float(smooth) == pytest.approx(-(0.95 * log_p[0] + 0.05 * log_p[1]), abs=1e-6)

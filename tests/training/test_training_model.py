"""The training step against NumPy: sharpness-aware minimization and distillation; and what may be a teacher."""

import keras
import numpy as np
import pytest
from small_runs import quiet

import keras_mixer
from keras_mixer.training.devices import choose_devices
from keras_mixer.training.optimizers import build_loss, build_optimizer
from keras_mixer.training.recipes import resolve
from keras_mixer.training.teacher import Teacher
from keras_mixer.training.training_model import TrainingModel

pytestmark = pytest.mark.backends

SGD = {"optimizer": "sgd", "learning_rate": 0.1, "warmup_steps": 0, "label_smoothing": 0.0, "steps": 10}
SHAPE = (2, 2, 3)


def linear(activation=None, shape=SHAPE, kind=keras.Model):
    image = keras.Input(shape)
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(image))
    return kind(image, keras.layers.Dense(3, activation=activation)(flat))


def saved(tmp_path, model):
    model.save(tmp_path / "teacher.keras")
    return str(tmp_path / "teacher.keras")


def softmax(x, kernel, bias):
    powers = np.exp(x @ kernel + bias)
    return powers / powers.sum(1, keepdims=True)


class ByHand:
    """A linear classifier of three classes, which learns by SGD with momentum; and the same as a TrainingModel."""

    def __init__(self, rng, **options):
        self.model, recipe = linear(kind=TrainingModel), resolve("digits", **SGD, **options)
        self.weights, self.momentum = [rng.normal(size=(12, 3)), rng.normal(size=3)], (0.0, 0.0)
        self.model.set_weights(self.weights)
        self.model.compile(build_optimizer(recipe), build_loss(recipe), jit_compile=False)

    def update(self, gradients, decay=0.0):
        rate = float(self.model.optimizer.learning_rate)
        self.momentum = [0.9 * m - rate * g for m, g in zip(self.momentum, gradients, strict=True)]
        decays = (rate * decay * self.weights[0], 0)
        self.weights = [w - d + m for w, d, m in zip(self.weights, decays, self.momentum, strict=True)]

    def compare(self, loss, *batch, **options):
        """Trains the model on the batch: its loss, and its weights afterwards."""
        self.model.reset_metrics()
        found = self.model.train_on_batch(*(array.astype("float32") for array in batch), return_dict=True, **options)
        assert found["loss"] == pytest.approx(loss, rel=1e-5)
        for weight, expected in zip(self.model.get_weights(), self.weights, strict=True):
            np.testing.assert_allclose(weight, expected, atol=1e-6)


def test_updates_at_perturbed_weights_equal_the_rule_in_numpy(rng):
    images, y = rng.integers(0, 256, (8, *SHAPE)), np.eye(3)[rng.integers(0, 3, 8)]
    x, student = images.reshape(8, 12) / 255, ByHand(rng, clip_norm=0.2, weight_decay=0.0)
    student.model.sam_rho = 0.5

    def gradients(weights):
        delta = (softmax(x, *weights) - y) / 8
        found = [x.T @ delta, delta.sum(0)]
        return found, np.sqrt(sum((g**2).sum() for g in found))

    for _ in range(3):
        loss = -(y * np.log(softmax(x, *student.weights))).sum(1).mean()
        at_start, norm = gradients(student.weights)
        nearby = [w + 0.5 * g / norm for w, g in zip(student.weights, at_start, strict=True)]
        found, norm = gradients(nearby)
        student.update([g * min(1, 0.2 / norm) for g in found])
        student.compare(loss, images, y)
        assert float(student.model.optimizer.gradient_norm.numpy()) == pytest.approx(norm, rel=1e-5)


def test_both_passes_draw_the_same_masks_and_each_step_draws_others(tiny_mixer, rng):
    masks = {"dropout_rate": 0.3, "drop_path_rate": 0.3}
    start = tiny_mixer(num_blocks=1, hidden_dim=8, classes=3, classifier_activation=None, **masks)
    x, y = rng.integers(0, 256, (24, 16, 16, 3)).astype("float32"), np.eye(3, dtype="float32")[rng.integers(0, 3, 24)]
    trained = []
    for rho in (0.0, 1e-7):
        recipe = resolve("digits", global_batch_size=8, sam_rho=rho, **SGD)
        model = TrainingModel.of(start, recipe, choose_devices("cpu"))
        model.prepare()
        model.fit(x, y, batch_size=8, shuffle=False, verbose=0)
        trained.append(model.get_weights())
    assert max(np.abs(a - b).max() for a, b in zip(*trained, strict=True)) <= 1e-6


def test_steps_of_a_student_equal_the_rule_in_numpy(tmp_path, rng):
    teacher, student = linear(activation="softmax"), ByHand(rng, clip_norm=None, weight_decay=0.05)
    student.model.teacher = Teacher(saved(tmp_path, teacher), temperature=2.0)
    for _ in range(3):
        images, weight = rng.integers(0, 256, (8, *SHAPE)), rng.uniform(size=(8, 1))
        x, any_labels = images.reshape(8, 12) / 255, np.eye(3)[rng.integers(0, 3, 8)]
        wanted, found = (softmax(x / 2, kernel, bias / 2) for kernel, bias in (teacher.get_weights(), student.weights))
        delta = 2 * weight * (found - wanted) / 8
        student.update((x.T @ delta, delta.sum(0)), decay=0.05)
        loss = (4 * weight * wanted * np.log(wanted / found)).sum() / 8
        student.compare(loss, images, any_labels, sample_weight=weight[:, 0].astype("float32"))
    assert len(student.model.variables) == 2  # none of the teacher's


def test_a_teacher_sees_images_of_its_own_size(tmp_path, rng):
    model = linear(shape=(4, 6, 3))
    images = rng.integers(0, 256, (5, *SHAPE)).astype("float32")
    resized = keras.ops.image.resize(images, (4, 6), "bilinear")
    found = Teacher(saved(tmp_path, model))(keras.ops.convert_to_tensor(images))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(found), model.predict(resized, verbose=0), atol=1e-5)


def test_what_cannot_teach_is_refused_before_anything_is_written(tmp_path, tiny_mixer):
    def refused(teacher, match):
        with pytest.raises(ValueError, match=match):
            keras_mixer.fit("digits", workdir=tmp_path / "run", teacher=str(teacher), log=quiet)
        assert not (tmp_path / "run").exists()

    refused(tmp_path / "none.keras", "neither a finished run directory nor a .keras file")
    (tmp_path / "damaged.keras").write_bytes(b"PK")
    refused(tmp_path / "damaged.keras", "cannot be loaded: .*damaged.keras")
    refused(saved(tmp_path, linear(activation="sigmoid")), "without activation, got .* and the activation 'sigmoid'")
    refused(saved(tmp_path, linear(shape=(2, 2, 1))), "Expected a teacher with one input")
    refused(saved(tmp_path, linear()), "The teacher has 3 classes, the student 10")

    model = tiny_mixer(num_blocks=1, classes=2, include_preprocessing=False)
    model.class_names = ("cat", "dog")
    teacher = Teacher(saved(tmp_path, model))
    assert "preprocessing" in {layer.name for layer in teacher.model.layers}
    teacher.check_classes(2, ("cat", "dog"))
    for others in (("dog", "cat"), ("cat", "cow")):
        with pytest.raises(ValueError, match="trained on the same data, in the same order"):
            teacher.check_classes(2, others)

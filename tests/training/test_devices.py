"""Devices: which there are, how processes join, and that any number of them trains the weights of one."""

import dataclasses
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_runs import SMALL, quiet

import keras_mixer
from keras_mixer import cli
from keras_mixer.data.sources import load_source
from keras_mixer.data.splits import Split
from keras_mixer.training import fit as loop, inputs
from keras_mixer.training.devices import Devices, check_recipe, choose_devices
from keras_mixer.training.recipes import resolve

pytestmark = pytest.mark.backends

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
SEVERAL = "2" if ON_TENSORFLOW else "4"
# 10 steps; the gradient is clipped at each, and test images are left over for some devices.
RUN = SMALL | {"epochs": 2, "global_batch_size": 240, "warmup_steps": 2, "clip_norm": 0.05, "learning_rate": 3e-4}
RUN |= {"class_weights": "balanced", "mixup_alpha": 0.2, "test_fraction": 0.231, "data_shards": 2}
if not ON_TENSORFLOW:  # where the mask of an example does not depend on the devices
    RUN["drop_path_rate"] = 0.3


class Form(keras.callbacks.Callback):
    """Whether the blocks of the model that is trained have the form for CPUs."""

    def on_train_begin(self, logs=None):
        self.flattened = self.model.get_layer("mixer_block_0").flattened


def fit(workdir, devices, **options):
    return keras_mixer.fit("digits", workdir=workdir, devices=devices, log=quiet, **(RUN | options))


def assert_equal(one, other):
    for mine, theirs in zip(one.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)
    assert one.history["step"] == other.history["step"] == [5, 10]
    for name in ("loss", "accuracy", "val_loss", "val_accuracy", "gradient_norm"):
        np.testing.assert_allclose(one.history[name], other.history[name], rtol=1e-5)
    assert other.metrics["accuracy"] == one.metrics["accuracy"]
    assert other.history["val_accuracy"][-1] == pytest.approx(other.metrics["accuracy"], abs=1e-6)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    form = Form()
    result = fit(tmp_path_factory.mktemp("one") / "run", "cpu", callbacks=form)
    assert form.flattened
    assert len(set(result.history["val_loss"])) == 2  # it learned something
    assert min(result.history["gradient_norm"]) > RUN["clip_norm"]
    return result


def test_several_devices_give_the_weights_of_one(one, tmp_path):
    assert_equal(one, fit(tmp_path / "several", SEVERAL, rematerialize=True))


def test_the_form_of_the_step_for_tpus_trains_the_same_weights(one, tmp_path, monkeypatch):
    form = Form()
    monkeypatch.setattr(
        loop, "choose_devices", lambda *wanted: dataclasses.replace(choose_devices(*wanted), platform="tpu")
    )
    assert_equal(one, fit(tmp_path / "other", "cpu", callbacks=form))
    assert not form.flattened


def test_microbatches_perturbed_weights_and_a_teacher_on_several_devices_are_those_on_one(tmp_path, monkeypatch):
    """On data of unknown length, of which each example counts once."""
    source, teacher = load_source("digits"), tmp_path / "teacher.keras"
    keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Flatten(), keras.layers.Dense(10)]).save(teacher)

    def of_unknown_length(split):
        elements = split.elements.filter(lambda element: True)
        assert int(elements.cardinality()) == tf.data.UNKNOWN_CARDINALITY
        return Split(split.size, split.classes, elements, split.read)

    unknown = dataclasses.replace(source, train=of_unknown_length(source.train), test=of_unknown_length(source.test))
    monkeypatch.setattr(inputs, "load_recipe_source", lambda *arguments, **options: unknown)
    # a size of its own: TensorFlow once compared the sums of this training with those of an earlier one in the process
    options = {"optimizer": "sgd", "learning_rate": 0.1, "schedule": "linear", "ema_momentum": 0.7, "hidden_dim": 24}
    options |= {"data_shards": 1, "class_weights": None, "sam_rho": 0.1, "teacher": str(teacher), "drop_path_rate": 0.0}
    one = fit(tmp_path / "one", "cpu", **options)
    assert one.metrics["test_images"] == 360
    assert_equal(one, fit(tmp_path / "several", SEVERAL, accumulation_steps=5, rematerialize_tokens=True, **options))


def test_a_tpu_that_answers_is_driven_by_its_strategy(monkeypatch):
    if not ON_TENSORFLOW:
        pytest.skip("tf.distribute")
    resolver = type("Resolver", (), {"connect": staticmethod(lambda: "a resolver")})
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", resolver)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: [kind] * 8)
    monkeypatch.setattr(tf.distribute, "TPUStrategy", lambda found: f"strategy of {found}")
    devices = choose_devices("auto")
    assert (devices.count, devices.strategy, devices.jit_compile) == (8, "strategy of a resolver", False)


def train_together(*workdirs):
    """Statuses and outputs of processes that train together, each with two devices."""
    train = [sys.executable, "-m", "keras_mixer", "train", "digits"]
    for name, value in RUN.items():
        train += [f"--{name.replace('_', '-')}", str(value)]
    train += ["--job-addresses", f"127.0.0.1:{20_000 + os.getpid() % 20_000}", "--num-processes", str(len(workdirs))]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "env": environment}
    processes = [
        subprocess.Popen([*train, "--workdir", str(workdir), "--process-id", str(process)], **options)
        for process, workdir in enumerate(workdirs)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def test_two_processes_train_to_the_weights_of_one(one, tmp_path):
    if ON_TENSORFLOW:
        pytest.skip("several processes train on JAX")
    statuses, outputs = train_together(tmp_path / "two", tmp_path / "two")
    assert statuses == [0, 0], "\n".join(outputs)
    assert "DataParallel on 4 CPU of 2 processes, 60 images per device" in outputs[0]
    assert "images per device" not in outputs[1]
    assert len(list((tmp_path / "two" / "tensorboard" / "train").iterdir())) == 1
    two = keras.saving.load_model(tmp_path / "two" / "model.keras")
    for mine, theirs in zip(one.model.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-6)


def test_replicas_draw_different_masks_at_the_right_rate():
    if not ON_TENSORFLOW:
        pytest.skip("JAX draws one mask for the whole batch")
    devices = choose_devices("2")
    with devices.scope():
        inputs = keras.Input((4,))
        layer = keras.layers.Dropout(0.3, seed=1)
        model = keras.Model(inputs, layer(inputs))
    devices.per_replica_seeds(model)

    drawn = devices.strategy.run(tf.function(lambda: layer(tf.ones((1000, 4)), training=True)))
    first, second = (mask.numpy() > 0 for mask in devices.strategy.experimental_local_results(drawn))
    assert 0.4 < (first != second).mean() < 0.44  # 2 x 0.3 x 0.7, as for independent draws
    for mask in (first, second):
        assert abs(mask.mean() - 0.7) < 4 * (0.21 / mask.size) ** 0.5


def test_what_devices_cannot_do_is_refused_with_the_remedy():
    for wanted in ("gpu", "17", "npu"):
        with pytest.raises(ValueError, match=rf"='{wanted}' is not available\. Use auto, cpu, .* found: .* cpu\."):
            choose_devices(wanted)
    recipe = resolve("digits")
    check_recipe(recipe, Devices("four", 4))
    with pytest.raises(ValueError, match=r"by 4 devices x 8 accumulation steps; use a multiple of 32"):
        check_recipe(dataclasses.replace(recipe, global_batch_size=80, accumulation_steps=8), Devices("four", 4))
    with pytest.raises(ValueError, match=r"--data-shards 2"):
        check_recipe(recipe, Devices("two processes", 2, processes=2))


def test_a_process_that_is_to_join_others_never_trains_alone(monkeypatch, capsys, tmp_path):
    def told(*options):
        assert cli.main(["train", "smoke", "--workdir", str(tmp_path / "run"), *options]) == 2
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err

    assert "Expected the address of process 0" in told("--num-processes", "2", "--process-id", "1")
    with monkeypatch.context() as patch:
        patch.setenv("KERAS_DISTRIBUTION_PROCESS_ID", "1")
        assert "Expected the address of process 0" in told()
    if ON_TENSORFLOW:
        monkeypatch.setenv("KERAS_DISTRIBUTION_JOB_ADDRESSES", "127.0.0.1:1")
        assert "Set KERAS_BACKEND=jax" in told()


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_waits_in_vain_says_for_whom_and_ends_in_words(process):
    if ON_TENSORFLOW:
        pytest.skip("several processes train on JAX")
    address = f"127.0.0.1:{20_000 + (os.getpid() + 7 + process) % 20_000}"
    code = "from keras_mixer.training.devices import join_processes as join; "
    code += f"join('{address}', 2, {process}, timeout=4)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert f"Waiting for process {1 - process} of 2 to join at {address}." in run.stderr
    assert f"error: Expected process {1 - process} of 2 to join at {address} within 4 s." in run.stderr
    assert "stack trace" not in run.stderr


def test_a_failure_of_one_process_ends_all_with_its_message(tmp_path):
    if ON_TENSORFLOW:
        pytest.skip("several processes train on JAX")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("do not lose me")
    statuses, (writer, failing) = train_together(tmp_path / "run", tmp_path / "full")
    assert statuses == [2, 2], f"{writer}\n{failing}"
    assert "contains other files (thesis.txt)" in failing
    assert "error: Process 1 of 2 failed; see what it printed." in writer
    assert not (tmp_path / "run" / "config.json").exists()

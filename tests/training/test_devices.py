import dataclasses
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_runs import SMALL

import keras_mixer
from keras_mixer import cli
from keras_mixer.data.sources import load_source
from keras_mixer.data.splits import Split
from keras_mixer.training import fit as loop, inputs
from keras_mixer.training.devices import Devices, check_recipe, choose_devices, join_processes
from keras_mixer.training.recipes import resolve

pytestmark = pytest.mark.backends

# 10 steps; the gradient is clipped at each
RUN = SMALL | {"epochs": 2, "global_batch_size": 240, "warmup_steps": 2, "clip_norm": 0.05, "randaugment_num_ops": 0}
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def fit(workdir, devices, **options):
    return keras_mixer.fit("digits", workdir=workdir, devices=devices, log=lambda line: None, **(RUN | options))


def distance(one, other):
    pairs = zip(one.model.get_weights(), other.model.get_weights(), strict=True)
    return max(np.abs(a - b).max() for a, b in pairs)


def test_one_cpu_is_one_device():
    devices = choose_devices("cpu")
    assert devices.count == 1
    assert "CPU" in devices.description


@pytest.mark.parametrize("wanted", ["gpu", "tpu", "17", "0"])
def test_devices_that_are_not_there_are_refused(wanted):
    with pytest.raises(ValueError, match=rf"devices='{wanted}' is not available\..*found: .* cpu\."):
        choose_devices(wanted)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="Use auto, cpu, gpu, tpu or a number"):
        choose_devices("npu")


def test_what_devices_cannot_do_is_refused_with_the_remedy():
    recipe = resolve("digits")
    check_recipe(recipe, Devices("four", 4))
    with pytest.raises(ValueError, match="use 64 or 68"):
        check_recipe(dataclasses.replace(recipe, global_batch_size=66), Devices("four", 4))
    with pytest.raises(ValueError, match=r"by 4 devices x 8 accumulation steps; use 64 or 96"):
        check_recipe(dataclasses.replace(recipe, global_batch_size=80, accumulation_steps=8), Devices("four", 4))
    with pytest.raises(ValueError, match=r"--data-shards 2"):
        check_recipe(recipe, Devices("two processes", 2, processes=2))


def test_several_tensorflow_machines_are_sent_to_jax(monkeypatch):
    cluster = {"cluster": {"worker": ["one:1", "two:1"]}, "task": {"type": "worker", "index": 0}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(cluster))
    if ON_TENSORFLOW:
        with pytest.raises(ValueError, match="KERAS_BACKEND=jax"):
            choose_devices("cpu")
        with pytest.raises(ValueError, match="KERAS_BACKEND=jax"):
            join_processes("auto")
    else:
        assert choose_devices("cpu").processes == 1


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_a_process_that_is_to_join_others_never_trains_alone(command, monkeypatch, capsys, tmp_path):
    def told(*options):
        assert cli.main([command, "smoke", "--workdir", str(tmp_path / "run"), *options]) == 2
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err

    assert "Expected the address of process 0" in told("--num-processes", "2", "--process-id", "1")
    assert "Expected the address of process 0" in told("--process-id", "0")
    for variable, value in {"NUM_PROCESSES": "2", "PROCESS_ID": "1"}.items():
        with monkeypatch.context() as patch:
            patch.setenv(f"KERAS_DISTRIBUTION_{variable}", value)
            assert "Expected the address of process 0" in told()
    joined = []
    monkeypatch.setattr(keras.distribution, "initialize", lambda *arguments: joined.append(arguments) or sys.exit(9))
    monkeypatch.setenv("KERAS_DISTRIBUTION_JOB_ADDRESSES", "127.0.0.1:1")
    if ON_TENSORFLOW:
        assert "Set KERAS_BACKEND=jax" in told()
        return
    import jax

    monkeypatch.setattr(jax.config, "update", lambda *setting: None)
    for options in ([], ["--job-addresses", "auto", "--num-processes", "2"]):
        with pytest.raises(SystemExit):
            cli.main([command, "smoke", *options])
    assert joined == [(None, None, None), (None, 2, None)]


@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_waits_in_vain_says_for_whom_and_ends_in_words(process):
    if ON_TENSORFLOW:
        pytest.skip("several processes train on JAX")
    address = f"127.0.0.1:{20_000 + (os.getpid() + 7 + process) % 20_000}"
    code = (
        f"from keras_mixer.training.devices import join_processes as join; join('{address}', 2, {process}, timeout=4)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert run.returncode == 2
    assert f"Waiting for process {1 - process} of 2 to join at {address}." in run.stderr
    assert f"error: Expected process {1 - process} of 2 to join at {address} within 4 s." in run.stderr
    assert "stack trace" not in run.stderr


def test_a_tpu_that_answers_is_driven_by_its_strategy(monkeypatch):
    if not ON_TENSORFLOW:
        pytest.skip("tf.distribute")
    cores = [tf.config.LogicalDevice(f"/device:TPU:{i}", "TPU") for i in range(8)]
    resolver = type("Resolver", (), {"connect": staticmethod(lambda: "a resolver")})
    monkeypatch.setattr(tf.distribute.cluster_resolver, "TPUClusterResolver", resolver)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: cores)
    monkeypatch.setattr(tf.distribute, "TPUStrategy", lambda found: f"strategy of {found}")
    for wanted in ("auto", "tpu"):
        devices = choose_devices(wanted)
        assert (devices.count, devices.strategy, devices.jit_compile) == (8, "strategy of a resolver", False)
    assert choose_devices("cpu").strategy is None


# what all runs do, and what only the run on several devices does
CASES = {
    "adamw": (
        {"learning_rate": 3e-4, "class_weights": "balanced", "mixup_alpha": 0.2, "test_fraction": 0.231},
        {"rematerialize": True},
    ),
    "sgd": (
        {"optimizer": "sgd", "learning_rate": 0.1, "schedule": "linear", "ema_momentum": 0.7},
        {"accumulation_steps": 5, "rematerialize_tokens": True},
    ),
    "muon": ({"optimizer": "muon", "learning_rate": 3e-4}, {}),
    "bfloat16": ({"learning_rate": 3e-4, "precision": "mixed_bfloat16"}, {}),
}
if not ON_TENSORFLOW:  # where the mask of an example does not depend on the devices
    CASES["noise"] = ({"learning_rate": 3e-4, "drop_path_rate": 0.3}, {})


@pytest.mark.parametrize("case", CASES)
def test_several_devices_give_the_weights_of_one(tmp_path, case):
    options, only_there = CASES[case]
    one = fit(tmp_path / "one", "cpu", **options)
    several = fit(tmp_path / "several", "2" if ON_TENSORFLOW else "4", **options, **only_there)
    assert one.history["step"] == several.history["step"] == [5, 10]
    assert len(set(one.history["val_loss"])) == 2  # it learned something
    assert distance(one, several) <= (1e-3 if case == "bfloat16" else 1e-6)
    if case != "bfloat16":
        for name in ("loss", "accuracy", "val_loss", "val_accuracy", "gradient_norm"):
            np.testing.assert_allclose(one.history[name], several.history[name], rtol=1e-5)
        assert several.metrics["accuracy"] == one.metrics["accuracy"]
        assert several.history["val_accuracy"][-1] == pytest.approx(several.metrics["accuracy"], abs=1e-6)


class Form(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.flattened = self.model.get_layer("mixer_block_0").flattened


def test_the_form_of_the_step_for_tpus_trains_the_same_weights(tmp_path, monkeypatch):
    options, form = {"learning_rate": 3e-4, "drop_path_rate": 0.1, "mixup_alpha": 0.2}, Form()
    one = fit(tmp_path / "one", "cpu", callbacks=form, **options)
    assert form.flattened
    monkeypatch.setattr(
        loop, "choose_devices", lambda *wanted: dataclasses.replace(choose_devices(*wanted), platform="tpu")
    )
    other = fit(tmp_path / "other", "cpu", callbacks=form, **options)
    assert not form.flattened
    assert distance(one, other) <= 1e-6
    assert one.history["val_loss"] == pytest.approx(other.history["val_loss"], rel=1e-5)


def test_steps_and_examples_are_counted_once_where_the_length_is_unknown(tmp_path, monkeypatch):
    """On several replicas with stochastic depth, which the cases above have only on JAX."""
    source = load_source("digits")

    def of_unknown_length(split):
        elements = split.elements.filter(lambda element: True)
        assert int(elements.cardinality()) == tf.data.UNKNOWN_CARDINALITY
        return Split(split.size, split.classes, elements, split.read)

    unknown = dataclasses.replace(source, train=of_unknown_length(source.train), test=of_unknown_length(source.test))
    monkeypatch.setattr(inputs, "load_recipe_source", lambda *arguments, **options: unknown)
    # a size of its own: TensorFlow once compared the sums of this training with those of an earlier one in the process
    noise = {"hidden_dim": 24, "drop_path_rate": 0.5, "dropout_rate": 0.1, "learning_rate": 3e-4}
    result = fit(tmp_path, "2", global_batch_size=100, epochs=1, test_fraction=0.2, **noise)
    assert np.isfinite(result.metrics["loss"])
    assert result.history["step"] == [14]
    assert result.history["val_accuracy"][-1] == pytest.approx(result.metrics["accuracy"], abs=1e-6)
    assert result.metrics["test_images"] == 360


def test_replicas_draw_different_masks_at_the_right_rate():
    if not ON_TENSORFLOW:
        pytest.skip("JAX draws one mask for the whole batch")
    devices = choose_devices("2")
    with devices.scope():
        inputs = keras.Input((4,))
        layer = keras.layers.Dropout(0.3, seed=1)
        model = keras.Model(inputs, layer(inputs))
    devices.per_replica_seeds(model)

    @tf.function
    def masks():
        return devices.strategy.run(lambda: layer(tf.ones((1000, 4)), training=True))

    first, second = (mask.numpy() > 0 for mask in devices.strategy.experimental_local_results(masks()))
    again = devices.strategy.experimental_local_results(masks())[0].numpy() > 0
    assert 0.4 < (first != second).mean() < 0.44  # 2 x 0.3 x 0.7, as for independent draws
    assert (first != again).any()
    for mask in (first, second):
        assert abs(mask.mean() - 0.7) < 4 * (0.21 / mask.size) ** 0.5


def test_two_processes_train_to_the_weights_of_one(tmp_path):
    if ON_TENSORFLOW:
        pytest.skip("several processes train on JAX")
    options = RUN | {"data_shards": 2, "learning_rate": 3e-4, "drop_path_rate": 0.1, "checkpoint_every_steps": 4}
    arguments = []
    for name, value in options.items():
        arguments += [f"--{name.replace('_', '-')}", str(value)]
    train = [sys.executable, "-m", "keras_mixer", "train", "digits", "--workdir", str(tmp_path / "two"), *arguments]
    join = ["--job-addresses", f"127.0.0.1:{20_000 + os.getpid() % 20_000}", "--num-processes", "2", "--process-id"]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    processes = [
        subprocess.Popen(
            [*train, *join, str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for number in (0, 1)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    assert "DataParallel on 4 CPU of 2 processes, 60 images per device" in outputs[0]
    assert "images per device" not in outputs[1]
    assert len(list((tmp_path / "two" / "tensorboard" / "train").iterdir())) == 1
    one = fit(tmp_path / "one", "cpu", **options)
    two = keras.saving.load_model(tmp_path / "two" / "model.keras")
    apart = [np.abs(a - b).max() for a, b in zip(one.model.get_weights(), two.get_weights(), strict=True)]
    assert max(apart) <= 1e-6

import keras
import numpy as np
import pytest

import keras_mixer
from keras_mixer.training.distribution import Devices, check_batch_size, choose_devices

pytestmark = pytest.mark.backends


def test_one_cpu_is_one_device():
    devices = choose_devices("cpu")
    assert devices.count == 1
    assert "CPU" in devices.description


@pytest.mark.parametrize("wanted", ["gpu", "tpu", "17"])
def test_devices_that_are_not_there_are_refused(wanted):
    with pytest.raises(ValueError, match=f"devices='?{wanted}'?"):
        choose_devices(wanted)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="auto, cpu, gpu, tpu or a number"):
        choose_devices("npu")


def test_a_batch_that_cannot_be_shared_evenly_is_refused_with_the_nearest_that_can():
    check_batch_size(64, Devices("four", 4))
    with pytest.raises(ValueError, match="use 64 or 68"):
        check_batch_size(66, Devices("four", 4))


@pytest.mark.parametrize(("optimizer", "learning_rate"), [("adamw", 0.003), ("sgd", 0.03)])
def test_two_devices_give_the_weights_of_one(tmp_path, optimizer, learning_rate):
    options = {
        "epochs": 2,  # 10 steps
        "global_batch_size": 256,
        "warmup_steps": 2,
        "num_blocks": 1,
        "hidden_dim": 16,
        "tokens_mlp_dim": 8,
        "channels_mlp_dim": 32,
        "xla_on_cpu": False,
        "optimizer": optimizer,
        "clip_norm": 0.05,  # small enough to act at every step
        "learning_rate": learning_rate,
        "report": lambda line: None,
    }
    one, two = (
        keras_mixer.fit("digits", workdir=tmp_path / devices, devices=devices, **options) for devices in ("cpu", "2")
    )
    start = keras_mixer.fit("digits", workdir=tmp_path / "start", **(options | {"learning_rate": 1e-9}))
    moved = max(np.abs(a - b).max() for a, b in zip(one.model.get_weights(), start.model.get_weights(), strict=True))
    apart = max(np.abs(a - b).max() for a, b in zip(one.model.get_weights(), two.model.get_weights(), strict=True))
    assert moved > 1e-3
    assert apart <= 1e-6
    assert two.metrics["accuracy"] == one.metrics["accuracy"]


def test_dropout_on_several_tensorflow_devices_is_refused(tmp_path):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("JAX draws for each example")
    with pytest.raises(ValueError, match="KERAS_BACKEND=jax"):
        keras_mixer.fit("digits", workdir=tmp_path, devices="2", drop_path_rate=0.1)

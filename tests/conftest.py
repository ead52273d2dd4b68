import os
import sys
import tempfile
from pathlib import Path

VIRTUAL_DEVICES = 4
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={VIRTUAL_DEVICES}"  # read when JAX starts
if os.environ.get("KERAS_BACKEND") == "jax":  # where tiny models take longer to optimize than they then run
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    compiled = tempfile.TemporaryDirectory()  # what one test compiles, the next ones load
    os.environ |= {"JAX_COMPILATION_CACHE_DIR": compiled.name, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}

import keras
import numpy as np
import pytest

import keras_mixer
from keras_mixer.training import recipe

sys.path.append(str(Path(__file__).parents[1]))  # experiments/ is not installed

if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * VIRTUAL_DEVICES)


@pytest.fixture(scope="session", autouse=True)
def keras_home(tmp_path_factory):
    """A cache of the tests' own, with what earlier exports downloaded for the browser; short starts of training."""
    real = Path(os.environ.get("KERAS_HOME") or Path("~", ".keras").expanduser(), "keras_mixer")
    home = tmp_path_factory.mktemp("keras_home")
    (home / "keras_mixer").mkdir()
    for file in real.glob("*.tgz"):
        (home / "keras_mixer" / file.name).symlink_to(file)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(home))
        patch.setattr(recipe, "XLA_BELOW_MACS", 0)  # XLA compiles tiny models for longer than their few steps take
        yield home


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def tiny_mixer(rng):
    """Builds small Mixers with random weights everywhere, biases and LayerNorm scales included."""

    def build(**options):
        sizes = {"patch_size": 4, "num_blocks": 2, "hidden_dim": 32, "tokens_mlp_dim": 16, "channels_mlp_dim": 64}
        sizes.update({name: options.pop(name) for name in list(options) if name in sizes})
        defaults = {"input_shape": (16, 16, 3), "classes": 10}
        return randomize(keras_mixer.Mixer(**sizes, **(defaults | options)), rng)

    return build


def randomize(model, rng):
    """Gives every weight a value that matters, of a size that keeps the signal's; returns the model."""
    for weight in model.weights:
        fan_in = np.prod(weight.shape[:-1])
        scale = fan_in**-0.5 if weight.path.endswith("kernel") else 0.5
        center = 1.0 if weight.path.endswith("gamma") else 0.0
        weight.assign(rng.normal(center, scale, weight.shape))
    return model

"""Which devices a run uses. The only file that knows both engines: tf.distribute and keras.distribution on JAX."""

import contextlib
import dataclasses
from typing import Any

import keras


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run.

    Attributes:
        description: for people, such as "MirroredStrategy on 2 GPU".
        count: how many devices share a batch.
        strategy: the `tf.distribute` strategy, or None.
        distribution: the `keras.distribution` object, or None.
        jit_compile: what to give to `compile`. XLA is mostly slower than TensorFlow's own kernels on a CPU, and Keras
            3.15 cannot use it with several replicas.
    """

    description: str
    count: int
    strategy: Any = None
    distribution: Any = None
    jit_compile: bool | str = "auto"

    @contextlib.contextmanager
    def scope(self):
        """Build model, optimizer and compile inside; `fit` may be inside too."""
        if self.strategy is not None:
            with self.strategy.scope():
                yield
        elif self.distribution is not None:
            before = keras.distribution.distribution()
            keras.distribution.set_distribution(self.distribution)
            try:
                yield
            finally:
                keras.distribution.set_distribution(before)
        else:
            yield


def choose_devices(devices="auto", xla_on_cpu=False) -> Devices:
    """The devices for a run.

    Args:
        devices: "auto" takes a TPU if one answers, else all GPUs, else one CPU; "cpu", "gpu" or "tpu" asks for all
            devices of that kind (one CPU); a number asks for so many of the best kind.
        xla_on_cpu: compile with XLA also for one CPU, on the TensorFlow backend.

    Returns:
        A `Devices`. Several devices are driven by MirroredStrategy or TPUStrategy on the TensorFlow backend and by
        `keras.distribution.DataParallel` on JAX.

    Raises:
        ValueError: there are no such devices; says what there is.

    Source: ours. Not run on a TPU.
    """
    if devices not in ("auto", "cpu", "gpu", "tpu") and not str(devices).isdigit():
        raise ValueError(f"devices must be auto, cpu, gpu, tpu or a number, not {devices!r}.")
    if keras.backend.backend() == "jax":
        return _jax_devices(str(devices))
    if keras.backend.backend() == "tensorflow":
        return _tensorflow_devices(str(devices), xla_on_cpu)
    raise ValueError(f"Training runs on the backends tensorflow and jax, not {keras.backend.backend()!r}.")


def check_batch_size(global_batch_size, devices: Devices):
    """Raises ValueError unless the batch can be shared evenly; uneven shares would weight examples differently."""
    if global_batch_size % devices.count:
        down, up = (global_batch_size // devices.count + step for step in (0, 1))
        raise ValueError(
            f"global_batch_size={global_batch_size} cannot be shared evenly by {devices.count} devices; "
            f"use {max(down, 1) * devices.count} or {up * devices.count}."
        )


def check_randomness(rates, devices: Devices):
    """Raises ValueError for dropout or stochastic depth where all replicas would draw the same mask (tf.distribute)."""
    if devices.strategy is not None and any(rates):
        raise ValueError(
            f"{devices.description} would use one dropout mask on all devices, because Keras 3.15 mirrors its random "
            "state: set --dropout-rate 0 --drop-path-rate 0, use one device, or run with KERAS_BACKEND=jax."
        )


def _pick(devices, available):
    """The wanted devices out of `available`: kind -> list, best kind first."""
    if devices == "auto":
        kind = next(kind for kind, found in available.items() if found)
        return available[kind][:1] if kind == "cpu" else available[kind]
    if devices.isdigit():
        wanted = int(devices)
        for found in available.values():
            if 0 < wanted <= len(found):
                return found[:wanted]
        counts = ", ".join(f"{len(found)} {kind}" for kind, found in available.items())
        raise ValueError(f"devices={devices} asks for more (or fewer than 1) devices than there are: {counts}.")
    if not available[devices]:
        there = ", ".join(kind for kind, found in available.items() if found)
        raise ValueError(f"devices={devices!r}, but this machine has only: {there}.")
    return available[devices][:1] if devices == "cpu" else available[devices]


def _tensorflow_devices(devices, xla_on_cpu) -> Devices:
    import tensorflow as tf

    tpus = []
    if devices in ("auto", "tpu"):
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
            tpus = tf.config.list_logical_devices("TPU")
        except (ValueError, tf.errors.NotFoundError):  # no TPU answers
            tpus = []
    if tpus:
        strategy = tf.distribute.TPUStrategy(resolver)
        return Devices(f"TPUStrategy on {len(tpus)} TPU cores", len(tpus), strategy=strategy, jit_compile=False)
    kinds = {"tpu": tpus, "gpu": tf.config.list_logical_devices("GPU"), "cpu": tf.config.list_logical_devices("CPU")}
    chosen = _pick(devices, kinds)
    kind = chosen[0].device_type
    if len(chosen) == 1:
        return Devices(f"one {kind}", 1, jit_compile="auto" if kind == "GPU" else xla_on_cpu)
    mirrored = tf.distribute.MirroredStrategy([device.name for device in chosen])
    return Devices(f"MirroredStrategy on {len(chosen)} {kind}", len(chosen), strategy=mirrored, jit_compile=False)


def _jax_list(kind):
    try:
        return keras.distribution.list_devices(kind)
    except RuntimeError:  # JAX has no such platform here
        return []


def _jax_devices(devices) -> Devices:
    kinds = {kind: _jax_list(kind) for kind in ("tpu", "gpu", "cpu")}
    chosen = _pick(devices, kinds)
    kind = chosen[0].split(":")[0].upper()
    if len(chosen) == 1:
        return Devices(f"one {kind}", 1)
    distribution = keras.distribution.DataParallel(devices=chosen)
    return Devices(f"DataParallel on {len(chosen)} {kind}", len(chosen), distribution=distribution)

"""The devices of a run. The only file that knows both engines: tf.distribute, and keras.distribution on JAX."""

import contextlib
import dataclasses
import functools
import json
import os
from typing import Any

import keras
import numpy as np

from keras_mixer.fields import check
from keras_mixer.training.recipe import DeviceChoice

MESSAGE_BYTES = 4096  # of an error that is sent to the other processes
JOIN_VARIABLES = [f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")]  # Keras's


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run.

    Attributes:
        description: for log lines, such as "MirroredStrategy on 2 GPU".
        count: number of devices that share a batch, over all processes.
        platform: kind of the devices: "cpu", "gpu" or "tpu".
        strategy: the `tf.distribute` strategy, or None.
        distribution: the `keras.distribution` object, or None.
        jit_compile: argument for `compile`. On a CPU, XLA is mostly slower than TensorFlow's own kernels, and Keras
            3.15 cannot use it with multiple replicas.
        process: index of this process among those that train together; process 0 writes the files.
        processes: number of processes.
    """

    description: str
    count: int
    platform: str = "cpu"
    strategy: Any = None
    distribution: Any = None
    jit_compile: bool | str = "auto"
    process: int = 0
    processes: int = 1

    @property
    def writes(self):
        """Whether this process writes the files of the run."""
        return self.process == 0

    @contextlib.contextmanager
    def scope(self):
        """A context for building and compiling the model and optimizer; `fit` may be called inside too."""
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

    @contextlib.contextmanager
    def all_or_none(self):
        """A context that succeeds in all processes or in none: if it fails in one, the others raise its message.

        Otherwise they would wait forever at the next collective operation.

        Raises:
            ValueError: the block failed in another process. The process where it failed raises the original error.
        """
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            if self.processes == 1:
                raise
            failure = error
        if self.processes == 1:
            return
        from jax.experimental import multihost_utils

        message = f"{type(failure).__name__}: {failure}".encode()[:MESSAGE_BYTES] if failure else b""
        own = np.frombuffer(message.ljust(MESSAGE_BYTES, b"\0"), np.uint8)
        messages = [bytes(row).rstrip(b"\0").decode(errors="replace") for row in multihost_utils.process_allgather(own)]
        if failure:
            raise failure
        for process, text in enumerate(messages):
            if text:
                raise ValueError(f"Process {process} of {self.processes} failed: {text}")

    def per_replica_seeds(self, model):
        """Makes dropout and stochastic depth use different masks on each replica of a strategy.

        Keras 3.15 mirrors the state of its random generators, so all replicas would use the same mask. Here the replica
        index is folded into every seed. The mirrored state does not change, so resuming works as before.
        """
        if self.strategy is not None:
            for layer in model._flatten_layers():  # no public name reaches the layers inside blocks
                if getattr(layer, "seed_generator", None) is not None:
                    layer.seed_generator.next = _with_replica(layer.seed_generator.next)


def _with_replica(next_seed):
    """`SeedGenerator.next` with the replica index folded into its result."""
    import tensorflow as tf

    def next_seed_of_replica(*arguments, **options):
        seed = next_seed(*arguments, **options)
        replica = tf.distribute.get_replica_context()
        if replica is None:  # during Keras's symbolic build
            return seed
        return tf.random.fold_in(tf.cast(seed, tf.int32), replica.replica_id_in_sync_group)

    return next_seed_of_replica


def join_processes(job_addresses=None, num_processes=None, process_id=None):
    """Connects this process to others that train together, on one machine or many. JAX only, before any computation.

    For an argument that is None, the variable KERAS_DISTRIBUTION_JOB_ADDRESSES, ..._NUM_PROCESSES or ..._PROCESS_ID is
    read. Without any of the six, this process trains alone.

    Args:
        job_addresses: `host:port` of process 0, or of all processes, separated by commas; "auto" lets JAX detect the
            cluster (Cloud TPU, Slurm).
        num_processes: number of processes.
        process_id: index of this process, from 0.

    Raises:
        ValueError: the backend is not JAX, or there is no address.

    Source: ours, around `keras.distribution.initialize`. Tested with two processes on one machine, not on multiple
    machines.
    """
    if (job_addresses or os.environ.get(JOIN_VARIABLES[0])) is None:
        given = [num_processes, process_id, *map(os.environ.get, JOIN_VARIABLES[1:])]
        if any(value is not None for value in given):
            raise ValueError(
                "Expected the address of process 0 along with the number of processes and the index of this one. Pass "
                f"--job-addresses HOST:PORT, or auto in Slurm or on a Cloud TPU pod, or set {JOIN_VARIABLES[0]}."
            )
        return
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"Expected the JAX backend for multiple processes, got {keras.backend.backend()!r}. Set KERAS_BACKEND=jax."
        )
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # the only one for CPUs
    keras.distribution.initialize(None if job_addresses == "auto" else job_addresses, num_processes, process_id)


def choose_devices(devices="auto", xla_on_cpu=False) -> Devices:
    """Chooses the devices of a run.

    Args:
        devices: "auto" uses a TPU if there is one, otherwise all GPUs, otherwise one CPU. "cpu", "gpu" or "tpu" uses
            all devices of that kind (one CPU). A number uses that many of the best kind.
        xla_on_cpu: on the TensorFlow backend, compile with XLA for one CPU too.

    Returns:
        A `Devices`. Multiple devices use MirroredStrategy or TPUStrategy on the TensorFlow backend and
        `keras.distribution.DataParallel` on JAX. Multiple processes need JAX and must have been joined before.

    Raises:
        ValueError: there are no such devices (the message lists those found), or the backend does not support them.

    Source: ours. Not tested on a TPU.
    """
    check("devices", str(devices), DeviceChoice)
    if keras.backend.backend() == "jax":
        return _jax_devices(str(devices))
    if keras.backend.backend() == "tensorflow":
        return _tensorflow_devices(str(devices), xla_on_cpu)
    raise ValueError(f"Expected the backend tensorflow or jax, got {keras.backend.backend()!r}. Set KERAS_BACKEND.")


def check_recipe(recipe, devices: Devices):
    """Raises ValueError if these devices cannot run a recipe, or would give another result than one device."""
    batch, divisor = recipe.global_batch_size, devices.count * recipe.accumulation_steps
    if batch % divisor:
        down, up = max(batch // divisor, 1) * divisor, (batch // divisor + 1) * divisor
        steps = f" x {recipe.accumulation_steps} accumulation steps" if recipe.accumulation_steps > 1 else ""
        raise ValueError(
            f"global_batch_size={batch} is not divisible by {devices.count} devices{steps}; use {down} or {up}."
        )
    if recipe.steps_per_execution > 1 and devices.strategy is not None and not devices.description.startswith("TPU"):
        raise ValueError(
            f"steps_per_execution={recipe.steps_per_execution} fails in Keras 3.15 on {devices.description}; use 1, "
            "one device, or KERAS_BACKEND=jax."
        )
    if recipe.data_shards % devices.processes:
        raise ValueError(
            f"data_shards={recipe.data_shards} is not divisible by {devices.processes} processes; use "
            f"--data-shards {devices.processes} or a multiple."
        )


def _select(devices, found):
    """Kind and list of the requested devices, from `found`: kind -> list, best kind first."""
    if devices.isdigit():
        for kind, available in found.items():
            if int(devices) <= len(available):
                return kind, available[: int(devices)]
        counts = ", ".join(f"{len(available)} {kind}" for kind, available in found.items())
        raise ValueError(f"devices={devices} is more than this machine has: {counts}.")
    kinds = [kind for kind, available in found.items() if available]
    kind = kinds[0] if devices == "auto" else devices
    if kind not in kinds:
        raise ValueError(f"devices={devices!r}, but this machine has only: {', '.join(kinds)}.")
    return kind, found[kind][:1] if kind == "cpu" else found[kind]


def _tensorflow_devices(devices, xla_on_cpu) -> Devices:
    import tensorflow as tf

    cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    if sum(map(len, cluster.values())) > 1:
        raise ValueError(
            "TF_CONFIG describes multiple machines, but Keras 3.15 cannot run `fit` under MultiWorkerMirroredStrategy. "
            "Remove TF_CONFIG, set KERAS_BACKEND=jax, and start each process with --job-addresses, --num-processes "
            "and --process-id."
        )
    tpus = []
    if devices in ("auto", "tpu"):
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
            tpus = tf.config.list_logical_devices("TPU")
        except (ValueError, tf.errors.NotFoundError):
            pass  # no TPU
    if tpus:
        strategy = tf.distribute.TPUStrategy(resolver)
        return Devices(f"TPUStrategy on {len(tpus)} TPU cores", len(tpus), "tpu", strategy=strategy, jit_compile=False)
    found = {"tpu": tpus} | {kind: tf.config.list_logical_devices(kind.upper()) for kind in ("gpu", "cpu")}
    kind, selected = _select(devices, found)
    count = len(selected)
    if count == 1:
        return Devices(f"one {kind.upper()}", 1, kind, jit_compile="auto" if kind == "gpu" else xla_on_cpu)
    strategy = _mirrored_strategy(tuple(device.name for device in selected))
    return Devices(f"MirroredStrategy on {count} {kind.upper()}", count, kind, strategy=strategy, jit_compile=False)


@functools.cache
def _mirrored_strategy(names):
    """One strategy per process: each numbers its sums from 100, and TensorFlow remembers the size of number 100."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(list(names))


def _jax_devices(devices) -> Devices:
    import jax

    processes = jax.process_count()
    if processes > 1 and devices.isdigit():
        raise ValueError(f"devices={devices} cannot be used with {processes} processes; use auto, tpu, gpu or cpu.")
    found = {kind: _list_jax_devices(kind) for kind in ("tpu", "gpu", "cpu")}
    kind, selected = _select(devices, found)
    description = kind.upper()
    if processes > 1:
        selected = found[kind]  # of all processes; each reads the data for its own
        description += f" of {processes} processes"
    elif len(selected) == 1:
        return Devices(f"one {description}", 1, kind)
    return Devices(
        f"DataParallel on {len(selected)} {description}",
        len(selected),
        kind,
        distribution=keras.distribution.DataParallel(devices=selected, auto_shard_dataset=processes == 1),
        process=jax.process_index(),
        processes=processes,
    )


def _list_jax_devices(kind):
    try:
        return keras.distribution.list_devices(kind)
    except RuntimeError:  # JAX has no such platform here
        return []

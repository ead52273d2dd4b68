"""The devices of a run: those of `tf.distribute`, or of `keras.distribution` on JAX."""

import contextlib
import dataclasses
import functools
import json
import os
import sys
import threading
from typing import Any

import keras
import numpy as np

JOIN_VARIABLES = [f"KERAS_DISTRIBUTION_{name}" for name in ("JOB_ADDRESSES", "NUM_PROCESSES", "PROCESS_ID")]  # Keras's
WAITING_AFTER = 20  # seconds until a process says for whom it waits
JOIN_TIMEOUT = 280  # seconds; JAX aborts the process after 300, with a stack trace
FAILED = 2  # exit status


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run."""

    description: str  # for log lines, such as "MirroredStrategy on 2 GPU"
    count: int  # devices that share a batch, over all processes
    platform: str = "cpu"  # or "gpu", "tpu"
    strategy: Any = None  # of `tf.distribute`
    distribution: Any = None  # of `keras.distribution`
    jit_compile: bool | str = "auto"  # for `compile`; Keras 3.15 cannot use XLA with multiple replicas
    process: int = 0  # index among those that train together; process 0 writes the files
    processes: int = 1

    def scope(self):
        """A context for building and compiling the model and optimizer; `fit` may be called inside too."""
        if shared := self.strategy or self.distribution:
            return shared.scope()
        return keras.device("cpu:0") if self.platform == "cpu" else contextlib.nullcontext()  # CPU: also next to a GPU

    @contextlib.contextmanager
    def all_or_none(self):
        """A context that succeeds in all processes or in none: others would wait forever for one that failed."""
        if self.processes == 1:
            yield
            return
        from jax.experimental import multihost_utils

        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
        failed = multihost_utils.process_allgather(np.array(failure is not None))
        if failure:
            raise failure
        if failed.any():
            raise ValueError(f"Process {failed.argmax()} of {self.processes} failed; see what it printed.")

    def per_replica_seeds(self, model):
        """Makes dropout and stochastic depth use different masks on each replica of a strategy.

        Keras 3.15 mirrors the state of its random generators. It stays so, but each replica adds its index to the seed.
        """
        for layer in model._flatten_layers():  # no public name reaches the layers in blocks
            if generator := getattr(layer, "seed_generator", None):
                generator.next = functools.partial(_seed_of_replica, generator.next)


def _seed_of_replica(next_seed, *arguments, **options):
    """The result of `SeedGenerator.next`, with the replica index folded into it."""
    import tensorflow as tf

    seed, replica = next_seed(*arguments, **options), tf.distribute.get_replica_context()
    if replica is None:  # during Keras's symbolic build
        return seed
    return tf.random.fold_in(tf.cast(seed, tf.int32), replica.replica_id_in_sync_group)


def join_processes(job_addresses=None, num_processes=None, process_id=None, timeout=JOIN_TIMEOUT):
    """Connects this process to others that train together (JAX), before any computation; None reads Keras's variables.

    `job_addresses` is `host:port` of process 0, or of all, separated by commas; or "auto", for Cloud TPU and Slurm.
    After `timeout` seconds, at most 300, this process ends with exit status 2.
    """
    pairs = zip(JOIN_VARIABLES, (job_addresses, num_processes, process_id), strict=True)
    address, number, own = (os.environ.get(name) if value is None else value for name, value in pairs)
    if address is None:
        if (number, own) != (None, None):
            raise ValueError(
                "Expected the address of process 0 along with the number of processes and the index of this one. Pass "
                f"--job-addresses HOST:PORT, or auto in Slurm or on a Cloud TPU pod, or set {JOIN_VARIABLES[0]}."
            )
        return
    if keras.backend.backend() != "jax":
        raise ValueError("Multiple processes train together only on the JAX backend. Set KERAS_BACKEND=jax.")
    others, joined = "the other processes", threading.Event()
    if number is not None and own is not None:
        missing = [str(process) for process in range(int(number)) if process != int(own)]
        others = f"process {', '.join(missing)} of {number}"

    def watch():  # from another thread: no exception reaches JAX's wait
        waiting = min(WAITING_AFTER, timeout / 2)
        if not joined.wait(waiting):
            print(f"Waiting for {others} to join at {address}.", file=sys.stderr, flush=True)
        if not joined.wait(timeout - waiting):
            failure = f"error: Expected {others} to join at {address} within {timeout} s. Start every process with the "
            failure += "same address, and check that process 0 can be reached there."
            print(failure, file=sys.stderr, flush=True)
            os._exit(FAILED)

    threading.Thread(target=watch, daemon=True).start()
    try:
        if address == "auto":
            os.environ.pop(JOIN_VARIABLES[0], None)  # Keras would read it
        keras.distribution.initialize(None if address == "auto" else address, num_processes, process_id)
    finally:
        joined.set()


def choose_devices(devices="auto", xla_on_cpu=False) -> Devices:
    """The devices that `Recipe.devices` names; ValueError lists those there are. Processes must have joined before.

    "auto" is a TPU if there is one, otherwise all GPUs, otherwise one CPU; a kind, all devices of it (one CPU).
    """
    backend = keras.backend.backend()
    if backend not in ("tensorflow", "jax"):
        raise ValueError(f"Expected the backend tensorflow or jax, got {backend!r}. Set KERAS_BACKEND.")
    return _jax_devices(str(devices)) if backend == "jax" else _tensorflow_devices(str(devices), xla_on_cpu)


def check_recipe(recipe, devices: Devices):
    """Raises ValueError if these devices cannot share the batches of a recipe."""
    batch, divisor = recipe.global_batch_size, devices.count * recipe.accumulation_steps
    if batch % divisor:
        among = f"{devices.count} devices x {recipe.accumulation_steps} accumulation steps"
        how = " and --no-fit-small-data" if recipe.fit_small_data else ""
        raise ValueError(f"global_batch_size={batch} is not divisible by {among}; use a multiple of {divisor}{how}.")
    if recipe.data_shards % (processes := devices.processes):
        raise ValueError(f"Use --data-shards {processes} or a multiple of it, got {recipe.data_shards}.")


def _select(devices, found):
    """Kind and list of the requested devices, from `found`: kind -> list, best kind first."""
    for kind, available in found.items():
        if devices.isdigit() and 0 < int(devices) <= len(available):
            return kind, available[: int(devices)]
        if devices in ("auto", kind) and available:
            return kind, available[:1] if kind == "cpu" else available
    counts = ", ".join(f"{len(available)} {kind}" for kind, available in found.items())
    raise ValueError(f"devices={devices!r} is not available. Use auto, cpu, gpu, tpu or a number; found: {counts}.")


def _tensorflow_devices(devices, xla_on_cpu) -> Devices:
    import tensorflow as tf

    machines = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    if sum(map(len, machines.values())) > 1:  # each would train alone
        raise ValueError("TF_CONFIG names multiple machines. Keras 3.15 cannot train on them with TensorFlow; use JAX.")
    tpus = []
    if devices in ("auto", "tpu"):
        with contextlib.suppress(ValueError, tf.errors.NotFoundError):  # no TPU
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
            tpus = tf.config.list_logical_devices("TPU")
    found = {"tpu": tpus} | {kind: tf.config.list_logical_devices(kind.upper()) for kind in ("gpu", "cpu")}
    kind, selected = _select(devices, found)
    if kind == "tpu":
        name, strategy = "TPUStrategy", tf.distribute.TPUStrategy(resolver)
    elif len(selected) == 1:
        return Devices(f"one {kind.upper()}", 1, kind, jit_compile="auto" if kind == "gpu" else xla_on_cpu)
    else:
        name, strategy = "MirroredStrategy", _mirrored_strategy(tuple(device.name for device in selected))
    about = f"{name} on {len(selected)} {kind.upper()}"
    return Devices(about, len(selected), kind, strategy=strategy, jit_compile=False)


@functools.cache
def _mirrored_strategy(names):
    """One strategy per process: each numbers its sums from 100, and TensorFlow remembers the size of number 100."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(list(names))


def hide_gpus_from_tensorflow():
    """On JAX, TensorFlow only reads data, but would take most of the memory of a GPU."""
    import tensorflow as tf

    if keras.backend.backend() == "jax":
        with contextlib.suppress(RuntimeError):  # TensorFlow has been used before
            tf.config.set_visible_devices([], "GPU")


def _jax_devices(devices) -> Devices:
    import jax

    processes = jax.process_count()
    if processes > 1 and devices.isdigit():
        raise ValueError(f"devices={devices} cannot be used with {processes} processes; use auto, tpu, gpu or cpu.")
    found: dict[str, list[str]] = {}
    for kind in ("tpu", "gpu", "cpu"):
        with contextlib.suppress(RuntimeError):  # JAX has no such platform here
            found[kind] = keras.distribution.list_devices(kind)
    kind, selected = _select(devices, found)
    if processes > 1:
        selected = found[kind]  # of all processes; each reads the data for its own
    elif len(selected) == 1:
        return Devices(f"one {kind.upper()}", 1, kind)
    about = f"DataParallel on {len(selected)} {kind.upper()}{f' of {processes} processes' if processes > 1 else ''}"
    shared = keras.distribution.DataParallel(devices=selected, auto_shard_dataset=processes == 1)
    process = jax.process_index()
    return Devices(about, len(selected), kind, distribution=shared, process=process, processes=processes)

"""Which devices a run uses. The only file that knows both engines: tf.distribute and keras.distribution on JAX."""

import contextlib
import dataclasses
import json
import os
from typing import Any

import keras
import numpy as np

from keras_mixer.fields import check
from keras_mixer.training.recipe import DeviceChoice

LONGEST_MESSAGE = 4096  # bytes of an error that other processes are told
JOIN_VARIABLE = "KERAS_DISTRIBUTION_JOB_ADDRESSES"  # Keras's own; the two beside it give number and id of processes


@dataclasses.dataclass(frozen=True)
class Devices:
    """The devices of a run.

    Attributes:
        description: for people, such as "MirroredStrategy on 2 GPU".
        count: how many devices share a batch, over all processes.
        platform: their kind: "cpu", "gpu" or "tpu".
        strategy: the `tf.distribute` strategy, or None.
        distribution: the `keras.distribution` object, or None.
        jit_compile: what to give to `compile`. XLA is mostly slower than TensorFlow's own kernels on a CPU, and Keras
            3.15 cannot use it with several replicas.
        process: number of this process among those that train together; 0 writes the files.
        processes: how many there are.
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
        """Whether this process writes the run's files."""
        return self.process == 0

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

    @contextlib.contextmanager
    def all_or_none(self):
        """A block that every process leaves together; where it fails in one, all end with that message.

        Without it the others would wait for ever at the next step that they share.

        Raises:
            ValueError: the block failed in another process; in the one where it failed, what it raised.
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

        said = f"{type(failure).__name__}: {failure}".encode()[:LONGEST_MESSAGE] if failure else b""
        own = np.frombuffer(said.ljust(LONGEST_MESSAGE, b"\0"), np.uint8)
        messages = [bytes(row).rstrip(b"\0").decode(errors="replace") for row in multihost_utils.process_allgather(own)]
        if failure:
            raise failure
        for process, message in enumerate(messages):
            if message:
                raise ValueError(f"Process {process} of {self.processes} failed: {message}")

    def per_replica_seeds(self, model):
        """Lets dropout and stochastic depth draw differently on each replica of a strategy.

        Keras 3.15 mirrors the state of its random generators, so that all replicas would draw one mask. The number of
        the replica is folded into every seed instead; the mirrored state, and with it resuming, stays as it is.
        """
        if self.strategy is not None:
            for layer in model._flatten_layers():  # no public name reaches the layers inside blocks
                if getattr(layer, "seed_generator", None) is not None:
                    layer.seed_generator.next = _seed_of_replica(layer.seed_generator.next)


def _seed_of_replica(next_seed):
    import tensorflow as tf

    def folded(*arguments, **options):
        seed = next_seed(*arguments, **options)
        replica = tf.distribute.get_replica_context()
        if replica is None:  # while Keras builds symbolically
            return seed
        return tf.random.fold_in(tf.cast(seed, tf.int32), replica.replica_id_in_sync_group)

    return folded


def join_processes(job_addresses=None, num_processes=None, process_id=None):
    """Makes this process one of several that train together, on one machine or many. On JAX, before it computes.

    Without arguments the variables KERAS_DISTRIBUTION_JOB_ADDRESSES, ..._NUM_PROCESSES and ..._PROCESS_ID are read;
    where they are missing too, JAX asks the machine (Cloud TPU, Slurm).

    Args:
        job_addresses: `host:port` of process 0, or of all, separated by commas.
        num_processes: how many there are.
        process_id: number of this one, from 0.

    Raises:
        ValueError: the backend is not JAX.

    Source: ours, around `keras.distribution.initialize`. Run on two processes of one machine; not on several machines.
    """
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"Several processes train on the JAX backend, not {keras.backend.backend()!r}: set KERAS_BACKEND=jax."
        )
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # CPUs have no other way to talk
    keras.distribution.initialize(job_addresses, num_processes, process_id)


def choose_devices(devices="auto", xla_on_cpu=False) -> Devices:
    """The devices for a run.

    Args:
        devices: "auto" takes a TPU if one answers, else all GPUs, else one CPU; "cpu", "gpu" or "tpu" asks for all
            devices of that kind (one CPU); a number asks for so many of the best kind.
        xla_on_cpu: compile with XLA also for one CPU, on the TensorFlow backend.

    Returns:
        A `Devices`. Several devices are driven by MirroredStrategy or TPUStrategy on the TensorFlow backend and by
        `keras.distribution.DataParallel` on JAX; several processes, which must have been joined before, by the latter.

    Raises:
        ValueError: there are no such devices (says what there is), or the engine cannot do what is asked.

    Source: ours. Not run on a TPU.
    """
    check("devices", str(devices), DeviceChoice)
    if keras.backend.backend() == "jax":
        return _jax_devices(str(devices))
    if keras.backend.backend() == "tensorflow":
        return _tensorflow_devices(str(devices), xla_on_cpu)
    raise ValueError(f"Training runs on the backends tensorflow and jax, not {keras.backend.backend()!r}.")


def check_recipe(recipe, devices: Devices):
    """Raises ValueError for what these devices cannot do, or would do differently than one device."""
    batch, pieces = recipe.global_batch_size, devices.count * recipe.accumulation_steps
    if batch % pieces:
        down, up = (batch // pieces + step for step in (0, 1))
        times = f" in {recipe.accumulation_steps} pieces each" if recipe.accumulation_steps > 1 else ""
        raise ValueError(
            f"global_batch_size={batch} cannot be shared evenly by {devices.count} devices{times}; "
            f"use {max(down, 1) * pieces} or {up * pieces}."
        )
    if recipe.steps_per_execution > 1 and devices.strategy is not None and not devices.description.startswith("TPU"):
        raise ValueError(
            f"steps_per_execution={recipe.steps_per_execution} fails in Keras 3.15 on {devices.description}; use 1, "
            "one device, or KERAS_BACKEND=jax."
        )
    if recipe.data_shards % devices.processes:
        raise ValueError(
            f"data_shards={recipe.data_shards} cannot be shared evenly by {devices.processes} processes; use "
            f"--data-shards {devices.processes} or a multiple."
        )


def _pick(devices, available):
    """The wanted devices out of `available`: kind -> list, best kind first."""
    if devices == "auto":
        kind = next(kind for kind, found in available.items() if found)
        return available[kind][:1] if kind == "cpu" else available[kind]
    if devices.isdigit():
        wanted = int(devices)
        for found in available.values():
            if wanted <= len(found):
                return found[:wanted]
        counts = ", ".join(f"{len(found)} {kind}" for kind, found in available.items())
        raise ValueError(f"devices={devices} asks for more devices than there are: {counts}.")
    if not available[devices]:
        there = ", ".join(kind for kind, found in available.items() if found)
        raise ValueError(f"devices={devices!r}, but this machine has only: {there}.")
    return available[devices][:1] if devices == "cpu" else available[devices]


def _tensorflow_devices(devices, xla_on_cpu) -> Devices:
    import tensorflow as tf

    cluster = json.loads(os.environ.get("TF_CONFIG") or "{}").get("cluster", {})
    if sum(map(len, cluster.values())) > 1:
        raise ValueError(
            "TF_CONFIG asks for several machines, but Keras 3.15 cannot run `fit` under MultiWorkerMirroredStrategy. "
            "Remove TF_CONFIG, set KERAS_BACKEND=jax, and start each process with --job-addresses, --num-processes "
            "and --process-id."
        )
    tpus = []
    if devices in ("auto", "tpu"):
        try:
            resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect()
            tpus = tf.config.list_logical_devices("TPU")
        except (ValueError, tf.errors.NotFoundError):  # no TPU answers
            tpus = []
    if tpus:
        strategy = tf.distribute.TPUStrategy(resolver)
        return Devices(f"TPUStrategy on {len(tpus)} TPU cores", len(tpus), "tpu", strategy=strategy, jit_compile=False)
    kinds = {"tpu": tpus, "gpu": tf.config.list_logical_devices("GPU"), "cpu": tf.config.list_logical_devices("CPU")}
    chosen = _pick(devices, kinds)
    kind = chosen[0].device_type
    if len(chosen) == 1:
        return Devices(f"one {kind}", 1, kind.lower(), jit_compile="auto" if kind == "GPU" else xla_on_cpu)
    mirrored = tf.distribute.MirroredStrategy([device.name for device in chosen])
    return Devices(
        f"MirroredStrategy on {len(chosen)} {kind}", len(chosen), kind.lower(), strategy=mirrored, jit_compile=False
    )


def _jax_list(kind):
    try:
        return keras.distribution.list_devices(kind)
    except RuntimeError:  # JAX has no such platform here
        return []


def _jax_devices(devices) -> Devices:
    import jax

    kinds = {kind: _jax_list(kind) for kind in ("tpu", "gpu", "cpu")}
    processes = jax.process_count()
    if processes > 1:
        return _jax_processes(devices, kinds, processes, jax.process_index())
    chosen = _pick(devices, kinds)
    kind = chosen[0].split(":")[0].upper()
    if len(chosen) == 1:
        return Devices(f"one {kind}", 1, kind.lower())
    distribution = keras.distribution.DataParallel(devices=chosen)
    return Devices(f"DataParallel on {len(chosen)} {kind}", len(chosen), kind.lower(), distribution=distribution)


def _jax_processes(devices, kinds, processes, process) -> Devices:
    """All devices of a kind in all processes; each process feeds its own."""
    if devices.isdigit():
        raise ValueError(
            f"devices={devices}: with {processes} processes all devices take part; use auto, tpu, gpu or cpu."
        )
    kind = next(kind for kind, found in kinds.items() if found) if devices == "auto" else devices
    chosen = kinds[kind] or _pick(devices, kinds)  # which says what is there instead
    return Devices(
        f"DataParallel on {len(chosen)} {kind.upper()} of {processes} processes",
        len(chosen),
        kind,
        distribution=keras.distribution.DataParallel(devices=chosen, auto_shard_dataset=False),
        process=process,
        processes=processes,
    )

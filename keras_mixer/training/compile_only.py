"""The real compiler's verdict on a training step, without its chips: does it lower, partition and fit?

Source: ours; the way is that of MaxText's `train_compile.py`, memory as in axlearn's `run_aot_compilation.py`.
"""

import contextlib
import dataclasses
import importlib.metadata
import re
import time
from typing import Any

from keras_mixer.training.lowering import lower_step, without_weights
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.topologies import chip_of, topology_devices
from keras_mixer.training.traffic import traffic

PASSES = {"train": 3, "evaluate": 1, "features": 1}  # a backward pass costs two forward passes
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
PACKAGES = ("keras-mixer", "keras", "jax", "jaxlib", "libtpu", "jax-cuda12-plugin")


@dataclasses.dataclass(frozen=True)
class CompileReport:
    """What the compiler says of one step on one chip. Sizes are of one chip; None where it ran out of memory.

    Attributes:
        recipe: its name.
        step: "train", "evaluate" or "features".
        topology: name of the slice.
        device_kind: the compiler's name of its chips.
        chips: how many share the batch.
        global_batch_size: images in a step.
        images_per_chip: of them, on each chip.
        classes: outputs of the head.
        accumulation_steps: pieces of a chip's batch, one after the other. FLOPs, bytes and operations are those of one
            piece: the others are turns of the same loop.
        rematerialize: whether blocks are computed again for the gradient.
        fits: whether the program fits into the chip's memory.
        hbm_bytes: arguments, outputs that take no argument's place, temporaries and code. Where it does not fit, what
            the compiler names, which can be a part.
        hbm_limit_bytes: memory that the chip has for them.
        argument_bytes: weights, optimizer, images and labels.
        temp_bytes: activations and everything else that lives within the step.
        output_bytes: the new state and metrics.
        alias_bytes: of the output, what takes the place of arguments, as the donated state does.
        code_bytes: the program.
        flops: of a step or piece, by the compiler; None for a GPU, whose compiler does not say.
        model_flops: of the same, by the exact formula: 2 a multiply-accumulate, 3 passes for training.
        bytes_accessed: of a step, by the compiler's own count, on-chip memory included: good for comparing two forms
            of a program, not for a time; see `traffic`.
        hbm_traffic_bytes: of a step, in main memory only, by the layouts in the compiled program.
        all_reduces: collective sums over the chips.
        all_gathers: collectives that copy parts of a tensor to all chips.
        copies: operations that only rearrange memory.
        fusions: operations that XLA fused.
        compile_seconds: time that compiling took on the machine that did it.
        versions: of the packages that decide the result.
        problem: the compiler's own words where it does not fit.
        traffic: what its operations move, as `keras_mixer.training.traffic.Traffic`; None unless asked for.
    """

    recipe: str
    step: str
    topology: str
    device_kind: str
    chips: int
    global_batch_size: int
    images_per_chip: int
    classes: int
    accumulation_steps: int
    rematerialize: bool
    fits: bool
    hbm_bytes: int
    hbm_limit_bytes: int
    compile_seconds: float
    versions: dict[str, str]
    model_flops: int
    argument_bytes: int | None = None
    temp_bytes: int | None = None
    output_bytes: int | None = None
    alias_bytes: int | None = None
    code_bytes: int | None = None
    flops: float | None = None
    bytes_accessed: float | None = None
    hbm_traffic_bytes: int | None = None
    all_reduces: int | None = None
    all_gathers: int | None = None
    copies: int | None = None
    fusions: int | None = None
    problem: str | None = None
    traffic: list[dict[str, Any]] | None = None


def compile_step(recipe: Recipe, topology, classes, step="train", details=False) -> CompileReport:
    """Compiles a step for the chips of a slice, in this process: JAX, and libtpu as `compile_process` sets it up.

    Args:
        recipe: what to train.
        topology: name of a slice, from `TOPOLOGIES`.
        classes: outputs of the head.
        step: "train", "evaluate" or "features".
        details: whether the report has its `traffic`.

    Raises:
        ValueError: an unknown slice, or the batch cannot be shared by its chips.
    """
    recipe, devices = without_weights(recipe), topology_devices(topology)
    lowered = lower_step(recipe, classes, devices, step)
    images = recipe.global_batch_size // len(devices)
    macs = recipe.architecture().macs(recipe.input_shape(), 0 if step == "features" else classes)
    pieces = recipe.accumulation_steps if step == "train" else 1
    common: dict[str, Any] = {
        "recipe": recipe.name,
        "step": step,
        "topology": topology,
        "device_kind": devices[0].device_kind,
        "chips": len(devices),
        "global_batch_size": recipe.global_batch_size,
        "images_per_chip": images,
        "classes": classes,
        "accumulation_steps": pieces,
        "rematerialize": recipe.rematerialize,
        "model_flops": 2 * PASSES[step] * macs * images // pieces,
        "versions": _versions(),
    }
    limit = chip_of(topology).usable_bytes
    began = time.perf_counter()
    try:
        compiled = lowered.compile()
    except Exception as error:  # JaxRuntimeError has no kind of its own for this
        if not is_out_of_memory(error):
            raise
        used, available = memory_of(str(error))
        seconds = time.perf_counter() - began
        problem = str(error).splitlines()[0]
        return CompileReport(
            **common,
            fits=False,
            hbm_bytes=used or limit,
            hbm_limit_bytes=available or limit,
            compile_seconds=seconds,
            problem=problem,
        )
    seconds = time.perf_counter() - began
    memory, text = compiled.memory_analysis(), compiled.as_text()
    cost = compiled.cost_analysis() or {}  # none for a GPU
    arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
    aliased, temporaries = memory.alias_size_in_bytes, memory.temp_size_in_bytes
    code = memory.generated_code_size_in_bytes
    counts, rows = count_operations(text), traffic(text)
    needed = arguments + outputs - aliased + temporaries + code
    return CompileReport(
        **common,
        fits=needed <= limit,  # the TPU compiler raised otherwise, that of a GPU does not
        hbm_bytes=needed,
        hbm_limit_bytes=limit,
        compile_seconds=seconds,
        argument_bytes=arguments,
        temp_bytes=temporaries,
        output_bytes=outputs,
        alias_bytes=aliased,
        code_bytes=code,
        flops=cost.get("flops"),
        bytes_accessed=cost.get("bytes accessed"),
        all_reduces=counts.get("all-reduce", 0) + counts.get("all-reduce-start", 0),
        all_gathers=counts.get("all-gather", 0) + counts.get("all-gather-start", 0),
        copies=counts.get("copy", 0),
        fusions=counts.get("fusion", 0),
        hbm_traffic_bytes=sum(row.hbm_bytes for row in rows),
        traffic=[dataclasses.asdict(row) for row in rows] if details else None,
    )


def is_out_of_memory(error) -> bool:
    """Whether the compiler gave up because a program needs more memory than a chip has."""
    message = str(error).lower()
    return "resource_exhausted" in message or "hbm" in message


def memory_of(message) -> tuple[int | None, int | None]:
    """`(needed, available)` bytes that an out-of-memory message names: "(23.46G) exceeds available HBM (15.75G)"."""
    sizes = re.findall(r"\(?([\d.]+)([KMGT])\)?\b", message)
    pair = [int(float(number) * UNITS[unit]) for number, unit in sizes[:2]]
    return (pair[0], pair[1]) if len(pair) == 2 else (None, None)


def count_operations(text) -> dict[str, int]:
    """How often each operation occurs in a compiled program, insides of fusions included."""
    counts: dict[str, int] = {}
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if found := re.match(r"\s+(?:ROOT )?%?[\w.-]+ = .*? ([a-z][a-z0-9-]*)\(", line):
            counts[found[1]] = counts.get(found[1], 0) + 1
    return counts


def _versions():
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions

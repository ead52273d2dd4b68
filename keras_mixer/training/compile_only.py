"""Compiles a training step for chips that need not be present: does it lower, partition and fit into memory?

Source: ours; the approach of MaxText's `train_compile.py`, with memory as in axlearn's `run_aot_compilation.py`.
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
    """The compiler's figures for one step on one chip. All sizes are per chip; None if it ran out of memory.

    Attributes:
        recipe: name of the recipe.
        step: "train", "evaluate" or "features".
        topology: name of the slice.
        device_kind: the compiler's name for the chips.
        chips: number of chips that share the batch.
        global_batch_size: images per step.
        images_per_chip: images per step on each chip.
        classes: outputs of the head.
        accumulation_steps: micro-batches into which a chip's batch is divided. FLOPs, bytes and operations are those of
            one micro-batch: the others are iterations of the same loop.
        rematerialize: whether blocks are recomputed for the gradient.
        rematerialize_tokens: whether only their token-mixing MLPs are.
        fits: whether the program fits into the chip's memory.
        hbm_bytes: arguments, outputs that do not reuse an argument's memory, temporaries and code. If the program does
            not fit, the number that the compiler reports, which may cover only a part.
        hbm_limit_bytes: memory that the chip has for them.
        argument_bytes: weights, optimizer state, images and labels.
        temp_bytes: activations and everything else that lives only within the step.
        output_bytes: the new state and the metrics.
        alias_bytes: the part of the output that reuses the memory of arguments, as the donated state does.
        code_bytes: size of the program.
        flops: FLOPs of a step or micro-batch as counted by the compiler; None for a GPU, whose compiler does not count.
        model_flops: the same by the exact formula: 2 per multiply-accumulate, 3 passes for training (6 with SAM).
        bytes_accessed: bytes per step as counted by the compiler, on-chip memory included: useful to compare two forms
            of a program, not to estimate a time; see `traffic`.
        hbm_traffic_bytes: bytes per step in main memory only, from the layouts in the compiled program.
        all_reduces: number of sums over all chips.
        all_gathers: number of collectives that copy parts of a tensor to all chips.
        copies: operations that only rearrange memory.
        fusions: fused operations.
        compile_seconds: compilation time on the machine used.
        versions: versions of the packages that determine the result.
        problem: the compiler's message if the program does not fit.
        traffic: bytes moved by its operations, as `keras_mixer.training.traffic.Traffic`; None unless requested.
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
    rematerialize_tokens: bool
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
    """Compiles a step for the chips of a slice in this process, which needs JAX and the set-up of `compile_process`.

    Args:
        recipe: the training run.
        topology: name of a slice, from `TOPOLOGIES`.
        classes: outputs of the head.
        step: "train", "evaluate" or "features".
        details: whether to fill the report's `traffic`.

    Raises:
        ValueError: unknown slice, or the chips cannot share the batch.
    """
    recipe, devices = without_weights(recipe), topology_devices(topology)
    lowered = lower_step(recipe, classes, devices, step)
    images = recipe.global_batch_size // len(devices)
    macs = recipe.architecture().macs(recipe.input_shape(), 0 if step == "features" else classes)
    pieces = recipe.accumulation_steps if step == "train" else 1
    passes = PASSES[step] * (2 if step == "train" and recipe.sam_rho else 1)
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
        "rematerialize_tokens": recipe.rematerialize_tokens,
        "model_flops": 2 * passes * macs * images // pieces,
        "versions": _versions(),
    }
    limit = chip_of(topology).usable_bytes
    began = time.perf_counter()
    try:
        compiled = lowered.compile()
    except Exception as error:  # JAX has no exception class of its own for this
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
        fits=needed <= limit,  # the TPU compiler raises if it does not fit, a GPU's does not
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
    """Whether compilation failed because the program needs more memory than the chip has."""
    message = str(error).lower()
    return "resource_exhausted" in message or "hbm" in message


def memory_of(message) -> tuple[int | None, int | None]:
    """`(needed, available)` bytes in an out-of-memory message: "(23.46G) exceeds available HBM (15.75G)"."""
    sizes = re.findall(r"\(?([\d.]+)([KMGT])\)?\b", message)
    pair = [int(float(number) * UNITS[unit]) for number, unit in sizes[:2]]
    return (pair[0], pair[1]) if len(pair) == 2 else (None, None)


def count_operations(text) -> dict[str, int]:
    """Number of occurrences of each operation in a compiled program, including inside fusions."""
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

"""Compiles the training step of a recipe for TPUs or GPUs, without having any: does it lower, partition and fit?

python benchmarks/tpu_compile.py imagenet21k_b16 global_batch_size=512 --topology v5e-8 --output report.json
python benchmarks/tpu_compile.py finetune rematerialize=True --topology v5e-1 --classes 37 --largest-batch
python benchmarks/tpu_compile.py --published --output benchmarks/results/tpu-compile.json  # benchmarks/README.md, hours

Needs pip install '.[cpu,tpu-compile]' on Linux. Neither data nor weights are read, and the step is not run: this says
nothing about speed or the values that it computes.

Source: ours; the approach of MaxText's `train_compile.py`, with memory as in axlearn's `run_aot_compilation.py`.
"""

import argparse
import ast
import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import re
import time
from pathlib import Path

ENVIRONMENT = {  # before Keras and JAX are imported
    "KERAS_BACKEND": "jax",
    "JAX_PLATFORMS": "cpu",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # its lock is for chips, and there are none
    "TPU_SKIP_MDS_QUERY": "1",  # ask no server of Google's cloud where this is
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
GIB = 2**30
SCHEDULE_STEPS = 1_000_000  # where the data do not say; a number in the program, no more
PRECISION = 8  # of the largest batch: one part in so many larger does not fit
COLUMNS = ("recipe", "chips", "images per chip", "memory in GiB", "temporaries", "FLOPs", "bytes accessed",
           "all-reduces", "all-gathers", "copies", "seconds")  # fmt: skip
REMEDIES = "Use --largest-batch, rematerialize=True, accumulation_steps=N, precision=mixed_bfloat16 or more chips."

# Memory that a program gets: by libtpu 0.0.52's own messages; on a GPU the three quarters that JAX takes by default.
USABLE_BYTES = {"v5e": 15.75 * GIB, "v6e": 31.24 * GIB, "v4": 30.75 * GIB, "v5p": 95.73 * GIB}
USABLE_BYTES["h100"] = 0.75 * 84_942_979_072
GRIDS = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
# Cloud TPU counts chips in the names of v5e and v6e, but cores in those of v4 and v5p: v4-8 has four chips.
TOPOLOGIES = {f"{chip}-{count}": (chip, grid) for chip in ("v5e", "v6e") for count, grid in GRIDS.items()}
TOPOLOGIES |= {f"{chip}-8": (chip, "2x2x1") for chip in ("v4", "v5p")}
TOPOLOGIES |= {f"h100-{count}": ("h100", f"1x1x{count}") for count in (1, 8)}  # one machine
# What XLA wants to know of a GPU that is not there: sizes of CUDA's device properties (NVIDIA's data sheet).
H100 = """
platform_name: "CUDA"  device_description_str: "NVIDIA H100 80GB HBM3"  dnn_version_info { major: 9 minor: 8 }
gpu_device_info {
  cuda_compute_capability { major: 9 }  core_count: 132  fpus_per_core: 128  clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000  device_memory_size: 84942979072  l2_cache_size: 52428800
  threads_per_warp: 32  threads_per_block_limit: 1024  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  shared_memory_per_core: 233472  shared_memory_per_block: 49152  shared_memory_per_block_optin: 232448
}
"""

PRETRAIN, CLASSES = "imagenet21k_b16", 21_843
VARIANTS = ("S/32", "S/16", "B/32", "B/16", "L/32", "L/16", "H/14")
PUBLISHED = [  # recipe, changes, topology, classes
    *((PRETRAIN, {"variant": variant, "global_batch_size": 8 * images}, "v5e-8", CLASSES)
      for variant, images in (("S/32", 512), ("B/16", 16), ("L/16", 32))),
    (PRETRAIN, {"global_batch_size": 512, "rematerialize": True}, "v5e-8", CLASSES),
    *((PRETRAIN, {"variant": variant, "global_batch_size": 8 * images, "rematerialize_tokens": True}, "v5e-8", CLASSES)
      for variant, images in (("B/16", 64), ("L/16", 32))),
    *(("finetune", {"global_batch_size": batch}, "v5e-1", 10) for batch in (256, 512)),
    ("finetune", {"global_batch_size": 512, "accumulation_steps": 8}, "v5e-1", 37),
    (PRETRAIN, {"global_batch_size": 512}, "h100-8", CLASSES),
    *((PRETRAIN, {"variant": variant, "global_batch_size": 64 * chips}, f"{chip}-{chips}", CLASSES)
      for variant in VARIANTS for chip, chips in (("v5e", 1), ("v5e", 8), ("v5e", 64), ("v6e", 8))),
]  # fmt: skip


def step_of_fit(recipe, classes, jax_devices):
    """The compiled model that `fit` trains, the shapes of its batches, and its devices: all that is used of `fit`."""
    import keras
    import tensorflow as tf

    from keras_mixer.data.batches import training_batches
    from keras_mixer.data.splits import Source, Split
    from keras_mixer.inspect.plan import plan
    from keras_mixer.training.devices import Devices, check_recipe
    from keras_mixer.training.fit import start_model
    from keras_mixer.training.training_model import TrainingModel

    devices = Devices(f"{len(jax_devices)} devices", len(jax_devices), jax_devices[0].platform)
    check_recipe(recipe, devices)
    elements = tf.data.Dataset.from_tensors({"image": tf.constant(b""), "label": tf.constant(0, tf.int64)})
    split = Split(recipe.global_batch_size, classes, elements.repeat(recipe.global_batch_size), lambda element: element)
    source = Source("shapes", tuple(map(str, range(classes))), split, split)  # never read
    total_steps = max(plan(recipe).total_steps or SCHEDULE_STEPS, recipe.warmup_steps + 1)
    recipe = dataclasses.replace(recipe, steps=total_steps)
    model = TrainingModel.of(start_model(recipe, source, log=None), recipe, devices)
    model.prepare()
    if len(jax_devices) > 1:  # only now: the weights above are arrays, on this machine
        devices = dataclasses.replace(devices, distribution=keras.distribution.DataParallel(devices=jax_devices))
    return model, training_batches(split, recipe, 0, devices).element_spec, devices


def lower_step(recipe, classes, jax_devices):
    """`jax.stages.Lowered`: the function that Keras jits for `fit`, lowered with shapes instead of arrays."""
    import jax
    import keras

    model, batch, devices = step_of_fit(recipe, classes, jax_devices)
    model._symbolic_build(data_batch=batch)  # metrics, as `fit` does with its first batch

    def abstract(tensor, layout_of):
        if devices.distribution is None:
            sharding = jax.sharding.SingleDeviceSharding(jax_devices[0])
        else:
            sharding = layout_of(devices.distribution, tensor).backend_layout
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        return jax.ShapeDtypeStruct(tuple(tensor.shape), dtype, sharding=sharding)

    with devices.scope():
        for variable in (*model.variables, *model.metrics_variables, *model.optimizer.variables):
            variable._value = abstract(variable, lambda distribution, v: distribution.get_variable_layout(v))
        data = tuple(abstract(part, lambda distribution, p: distribution.get_data_layout(p.shape)) for part in batch)
        model._make_function = lambda step: step  # Keras would wrap the jitted step into its loop over an iterator
        model.make_train_function(force=True)
        return model.train_function.lower(model._get_jax_state(True, True, True, True), data)


def topology_devices(name):
    """The JAX devices of a topology, which need not be present: programs can be compiled for them, but not run."""
    from jax.experimental import topologies

    chip, grid = TOPOLOGIES[name]
    if chip == "h100":
        return list(topologies.get_topology_desc(platform="cuda", topology=grid, target_config=H100).devices)
    options = {}
    if chip in ("v4", "v5p"):
        options["chip_config_name"] = "megacore"  # both cores of a chip as one device, JAX's default there
    if grid == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    return list(topologies.get_topology_desc(platform="tpu", topology_name=f"{chip}:{grid}", **options).devices)


def compile_step(recipe, topology, classes=None):
    """The compiler's report on the training step of a recipe, as plain data; sizes and counts are per chip.

    With accumulation, FLOPs, bytes and operations are those of one microbatch: the others are iterations of its loop.
    `bytes_accessed` includes on-chip memory: use it to compare two forms of a program, not to estimate a time.
    """
    from keras_mixer.inspect.plan import plan

    compiler = check_compiler(topology)
    classes = classes or plan(recipe).classes
    if classes is None:
        raise ValueError(f"The number of classes of {recipe.data!r} is not known before it is read. Use --classes.")
    recipe, devices = without_weights(recipe), topology_devices(topology)
    images, limit = recipe.global_batch_size // len(devices), int(USABLE_BYTES[TOPOLOGIES[topology][0]])
    flops = 2 * (6 if recipe.sam_rho else 3) * recipe.architecture().macs(recipe.input_shape(), classes)  # of an image
    report = {"device_kind": devices[0].device_kind, "chips": len(devices), "hbm_limit_bytes": limit}
    report |= {"global_batch_size": recipe.global_batch_size, "images_per_chip": images, "classes": classes}
    report |= {"model_flops": flops * images // recipe.accumulation_steps}
    report |= {"versions": {name: importlib.metadata.version(name) for name in ("keras", "jax", compiler)}}
    lowered = lower_step(recipe, classes, devices)
    began = time.perf_counter()
    try:
        compiled = lowered.compile()
    except Exception as error:  # JAX has no exception class of its own for this
        if not is_out_of_memory(error):
            raise
        problem = str(error).splitlines()[0]  # names the memory that it would need
        return report | {"fits": False, "problem": problem, "compile_seconds": time.perf_counter() - began}
    report["compile_seconds"] = time.perf_counter() - began
    memory, counts = compiled.memory_analysis(), count_operations(compiled.as_text())
    cost = compiled.cost_analysis() or {}  # none for a GPU
    parts = {
        "argument_bytes": memory.argument_size_in_bytes,  # weights, optimizer, batch
        "temp_bytes": memory.temp_size_in_bytes,  # activations and all else that lives only within the step
        "output_bytes": memory.output_size_in_bytes,  # the new state and the metrics
        "alias_bytes": memory.alias_size_in_bytes,  # outputs in place of arguments: the donated state
        "code_bytes": memory.generated_code_size_in_bytes,
    }
    needed = sum(parts.values()) - 2 * parts["alias_bytes"]  # aliased outputs take no memory of their own
    return report | parts | {
        "hbm_bytes": needed,
        "fits": needed <= limit,  # the TPU compiler raises if it does not fit, a GPU's does not
        "flops": cost.get("flops"), "bytes_accessed": cost.get("bytes accessed"),
        "all_reduces": counts.get("all-reduce", 0) + counts.get("all-reduce-start", 0),
        "all_gathers": counts.get("all-gather", 0) + counts.get("all-gather-start", 0),
        "copies": counts.get("copy", 0), "fusions": counts.get("fusion", 0),
    }  # fmt: skip


def check_compiler(topology):
    """The package that compiles for a topology. Raises ValueError if it is not installed."""
    package, module, install = "libtpu", "libtpu", "'keras-mixer[tpu-compile]' on Linux"
    if topology.startswith("h100"):
        package, module = "jax-cuda12-plugin", "jax_plugins"
        install = "--no-deps jax-cuda12-plugin jax-cuda12-pjrt, both in jax's version, on Linux"
    if importlib.util.find_spec("jax") is None or importlib.util.find_spec(module) is None:
        raise ValueError(f"Compiling for {topology} needs jax and {package}. Use pip install {install}.")
    return package


def without_weights(recipe):
    """The recipe with random weights; raises ValueError where its weights would decide about shapes."""
    same_grid = recipe.resolution_method != "block_diagonal" or recipe.input_shape()[:2] == (224, 224)
    if recipe.weights and not same_grid and recipe.tokens_mlp_dim is None:
        raise ValueError(
            f"Weights for 224 px widen the token-mixing MLPs at {recipe.image_size} px, but they are not read. Pass "
            "tokens_mlp_dim=N: that of the variant, times the square of the scale (1536 for B/16 at 448 px)."
        )
    return dataclasses.replace(recipe, weights=None)


def is_out_of_memory(error):
    """Whether compilation failed because the program needs more memory than the chip has."""
    message = str(error).lower()
    return "resource_exhausted" in message or "hbm" in message


def count_operations(text):
    """Number of occurrences of each operation in a compiled program, including inside fusions."""
    counts = {}
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if found := re.match(r"\s+(?:ROOT )?%?[\w.-]+ = .*? ([a-z][a-z0-9-]*)\(", line):
            counts[found[1]] = counts.get(found[1], 0) + 1
    return counts


def search_largest_batch(compile_batch, unit, first):
    """The report of the largest global batch that fits, in steps of `unit`, to within an eighth; None if none does."""
    low, best = 0, None  # in units: the largest known to fit
    high = None  # the smallest known not to
    count = max(first // unit, 1)
    while high is None or high - low > max(low // PRECISION, 1):
        report = compile_batch(count * unit)
        if report["fits"]:
            low, best = count, report
        else:
            high = count
        count = 2 * low if high is None else (low + high) // 2
    return best


def print_report(report):
    """One row of the table under `COLUMNS`; memory is per chip, FLOPs are relative to the exact formula."""
    changed = ", ".join(f"{name}={value}" for name, value in report["changes"].items())
    row = [f"{report['recipe']} {changed}", report["topology"], f"{report['images_per_chip']:,}"]
    if "hbm_bytes" in report:
        flops = f"{report['flops'] / report['model_flops']:.3f}" if report["flops"] else "-"  # none for a GPU
        moved = f"{report['bytes_accessed'] / 1e9:.1f} GB" if report["bytes_accessed"] else "-"
        memory = f"{report['hbm_bytes'] / GIB:.2f} of {report['hbm_limit_bytes'] / GIB:.2f}"
        counts = [report[name] for name in ("all_reduces", "all_gathers", "copies")]
        row += [memory, f"{report['temp_bytes'] / GIB:.2f}", flops, moved, *counts]
    else:
        row += ["does not fit", *["-"] * 6]
    print("|", " | ".join(map(str, [*row, f"{report['compile_seconds']:.0f}"])), "|", flush=True)


def compile_all(options):
    """Compiles what the options name, printing each report and writing it to the output at once."""
    from keras_mixer.training.recipes import resolve

    reports = json.loads(options.output.read_text("utf-8")) if options.published and options.output.is_file() else []
    print("|", " | ".join(COLUMNS), "|\n|", " | ".join("---" for _ in COLUMNS), "|")

    def compile_one(recipe, changes, topology, classes):
        case = {"recipe": recipe, "changes": changes, "topology": topology}
        report = next((done for done in reports if case.items() <= done.items()), None)
        if report is None:
            report = case | compile_step(resolve(recipe, **changes), topology, classes)
            reports.append(report)
            if options.output:
                options.output.write_text(json.dumps(reports, indent=1) + "\n", encoding="utf-8")
        print_report(report)
        return report

    if options.published:
        for case in PUBLISHED:
            compile_one(*case)
        return
    changes = dict(options.changes)
    if not options.largest_batch:
        report = compile_one(options.recipe, changes, options.topology, options.classes)
        if not report["fits"]:
            print(f"It does not fit. {report.get('problem', '')}\n{REMEDIES}")
        return
    check_compiler(options.topology)
    recipe, chips = resolve(options.recipe, **changes), len(topology_devices(options.topology))

    def compile_batch(size):
        sized = changes | {"global_batch_size": size, "data_shards": 1}  # the input pipeline is not compiled
        return compile_one(options.recipe, sized, options.topology, options.classes)

    best = search_largest_batch(compile_batch, chips * recipe.accumulation_steps, recipe.global_batch_size)
    print(f"Largest global batch: {best['global_batch_size'] if best else 'none fits'}")


def assignment(text):
    """`FIELD=VALUE` as a field and a Python value: a number, a tuple, True, None, otherwise the text itself."""
    field, _, value = text.partition("=")
    try:
        return field, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return field, value


def main():
    """Reads the options; an error is one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", default="digits")
    parser.add_argument("changes", nargs="*", type=assignment, metavar="FIELD=VALUE", help="fields to replace")
    parser.add_argument("--topology", default="v5e-1", choices=TOPOLOGIES, metavar="NAME", help=", ".join(TOPOLOGIES))
    parser.add_argument("--classes", type=int, help="outputs of the head; known for the data sets of the recipes")
    parser.add_argument("--largest-batch", action="store_true", help="search the largest global batch that fits")
    parser.add_argument("--published", action="store_true", help="compile what benchmarks/README.md shows, or resume")
    parser.add_argument("--output", type=Path, help="write the reports to this file as JSON")
    options = parser.parse_intermixed_args()
    if options.published and not options.output:
        parser.error("--published needs --output FILE, where it resumes.")
    os.environ.update(ENVIRONMENT)
    try:
        compile_all(options)
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

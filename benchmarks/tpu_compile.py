"""The table of docs/guides/tpu.md: steps compiled by the TPU compiler, without a TPU. Hours on two cores.

python benchmarks/tpu_compile.py --output benchmarks/results/tpu-compile.json   # resumes where the file ends
python benchmarks/tpu_compile.py --output benchmarks/results/tpu-compile.json --table   # prints what it has as Markdown
"""

import argparse
import dataclasses
import json
from pathlib import Path

from keras_mixer.training.compile_process import compile_only
from keras_mixer.training.recipes import resolve

PRETRAIN, CLASSES = "imagenet21k_b16", 21_843
VARIANTS = ("S/32", "S/16", "B/32", "B/16", "L/32", "L/16", "H/14")
CHIPS = (("v5e", 1), ("v5e", 8), ("v5e", 64), ("v6e", 8))
CASES = [  # recipe, changes, topology, classes
    *((PRETRAIN, {"variant": variant, "global_batch_size": 8 * images}, "v5e-8", CLASSES)
      for variant, images in (("S/32", 64), ("S/32", 512), ("B/16", 16), ("B/16", 64), ("L/16", 16), ("L/16", 32))),
    (PRETRAIN, {"global_batch_size": 512, "rematerialize": True}, "v5e-8", CLASSES),
    *((PRETRAIN, {"variant": variant, "global_batch_size": 8 * images, "rematerialize_tokens": True}, "v5e-8", CLASSES)
      for variant, images in (("B/16", 64), ("L/16", 32))),
    (PRETRAIN, {"global_batch_size": 4096}, "v5e-64", CLASSES),
    *(("finetune", {"global_batch_size": batch}, "v5e-1", 10) for batch in (256, 512)),
    ("finetune", {"global_batch_size": 512, "accumulation_steps": 8}, "v5e-1", 37),
    (PRETRAIN, {"global_batch_size": 512}, "h100-8", CLASSES),
    *((PRETRAIN, {"variant": variant, "global_batch_size": 64 * chips}, f"{chip}-{chips}", CLASSES)
      for variant in VARIANTS for chip, chips in CHIPS),
]  # fmt: skip


def main():
    """Compiles what the output does not have yet; every result is written at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    output = arguments.output
    results = json.loads(output.read_text()) if output.is_file() else []
    if arguments.table:
        return print_table(results)
    done = {json.dumps(result["case"]) for result in results}
    for recipe, changes, topology, classes in CASES:
        case = [recipe, changes, topology]
        if json.dumps(case) in done:
            continue
        (report,) = compile_only(resolve(recipe, **changes), topology, classes=classes)
        print(case, "fits" if report.fits else "does not fit", f"{report.compile_seconds:.0f} s", flush=True)
        done.add(json.dumps(case))
        results.append({"case": case} | dataclasses.asdict(report))
        output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def print_table(results):
    """The variants at 64 images per chip, one row per chip; a dash where they were not compiled."""
    found = {json.dumps(result["case"]): result for result in results}
    columns = (
        "variant",
        "chips",
        "memory in GiB",
        "temporaries",
        "FLOPs",
        "bytes accessed; main",
        "all-reduces",
        "seconds",
    )
    print("|", " | ".join(columns), "|")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for variant in VARIANTS:
        for chip, chips in CHIPS:
            case = [PRETRAIN, {"variant": variant, "global_batch_size": 64 * chips}, f"{chip}-{chips}"]
            one = found.get(json.dumps(case))
            cells = ["-"] * 6
            if one and one["fits"]:
                moved = f"{one['bytes_accessed'] / 1e9:.1f}; {one['hbm_traffic_bytes'] / 1e9:.1f} GB"
                flops = f"{one['flops'] / one['model_flops']:.3f}"
                memory = [f"{one[name] / 2**30:.2f}" for name in ("hbm_bytes", "temp_bytes")]
                cells = [*memory, flops, moved, one["all_reduces"], f"{one['compile_seconds']:.0f}"]
            elif one:
                cells[0] = f"does not fit ({one['hbm_bytes'] / 2**30:.2f})"
            print("|", " | ".join(map(str, (variant, f"{chip}-{chips}", *cells))), "|")


if __name__ == "__main__":
    main()

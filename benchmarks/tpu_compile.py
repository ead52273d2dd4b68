"""The table of docs/guides/tpu.md: steps compiled by the TPU compiler, without a TPU. Hours on two cores.

python benchmarks/tpu_compile.py --output benchmarks/results/tpu-compile.json   # resumes where the file ends
"""

import argparse
import dataclasses
import json
from pathlib import Path

from keras_mixer.training.compile_process import compile_only
from keras_mixer.training.recipes import resolve

PRETRAIN, CLASSES = "imagenet21k_b16", 21_843
CASES = [  # recipe, changes, topology, classes
    *((PRETRAIN, {"variant": variant, "global_batch_size": 8 * images}, "v5e-8", CLASSES)
      for variant, images in (("S/32", 64), ("S/32", 512), ("B/16", 16), ("B/16", 64), ("L/16", 16), ("L/16", 32))),
    (PRETRAIN, {"global_batch_size": 512, "rematerialize": True}, "v5e-8", CLASSES),
    (PRETRAIN, {"global_batch_size": 4096}, "v5e-64", CLASSES),
    *(("finetune", {"global_batch_size": batch}, "v5e-1", 10) for batch in (256, 512)),
    ("finetune", {"global_batch_size": 512, "accumulation_steps": 8}, "v5e-1", 37),
    (PRETRAIN, {"global_batch_size": 512}, "h100-8", CLASSES),
    *((PRETRAIN, {"variant": variant, "global_batch_size": 64 * chips}, f"{chip}-{chips}", CLASSES)
      for variant in ("S/32", "S/16", "B/32", "B/16", "L/32", "L/16", "H/14")
      for chip, chips in (("v5e", 1), ("v5e", 8), ("v5e", 64), ("v6e", 8))),
]  # fmt: skip


def main():
    """Compiles what the output does not have yet; every result is written at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    output = parser.parse_args().output
    results = json.loads(output.read_text()) if output.is_file() else []
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


if __name__ == "__main__":
    main()

"""Mixer and ViT on one GPU in bfloat16: this package on JAX against compiled timm.

    python benchmarks/gpu.py --output benchmarks/results/gpu.json

Requires jax with CUDA and keras, and torch, timm and torchvision in this environment or in that of `--timm PYTHON`; no
TensorFlow. Models run one at a time, each in its own process: forward pass and training step, doubling the batch until
throughput stops growing or memory runs out (`--one-batch`: only the first size, which saves compilations). MFU is
relative to the product of two 8192 x 8192 matrices in the same process. `--only` selects models and `--minutes` limits
the time; skipped models are listed. `--tiny` runs everything within a minute on any machine, as a test.
"""

import os

if __name__ == "__main__":
    os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported

import argparse
import math
import sys
import time
from pathlib import Path

from contestants import Contestant, middle, record
from keras_vit import VITS

from keras_mixer.variants import KNOWN_VARIANTS  # tiny/4, for the test

KINDS = ("forward", "train")
CONTESTANTS = {"keras": ("gpu_keras.py",), "timm": ("timm_peer.py", "compile")}
# In order of importance, in case time runs out
MODELS = ("B/16", "ViT-B/16", "L/16", "ViT-L/16", "S/32", "S/16", "B/32", "L/32", "H/14")
LIMIT_SIDE = 8192
LARGEST_BATCH = 16384
GROWTH = 1.02  # smallest gain in throughput that justifies doubling the batch
OUT_OF_MEMORY = ("resource_exhausted", "out of memory", "outofmemory")
RATIOS = (("B/16", "ViT-B/16", 1384 / 861), ("L/16", "ViT-L/16", 419 / 280))  # Table 3, images/s/core


def macs(variant, side):
    """Multiply-accumulates per image."""
    if variant in VITS:
        return VITS[variant].macs(side)
    return KNOWN_VARIANTS[variant].macs((side, side, 3))


def first_batch(variant, side, kind):
    """A power of two that keeps a GPU busy for some milliseconds and certainly fits in memory."""
    wanted = 6e12 / macs(variant, side) / (2 if kind == "train" else 1)
    return 2 ** int(min(max(math.log2(wanted), 3), 10))


def sweep(contestant, variant, kind, options, deadline):
    """The row of the best batch size; None if no batch size ran."""
    operations = 2.0 * macs(variant, options.image_size) * (3 if kind == "train" else 1)
    batch_size = options.batch_size or first_batch(variant, options.image_size, kind)
    best, stopped = None, "no time left"
    while batch_size <= LARGEST_BATCH and time.perf_counter() < deadline:
        case = {"kind": kind, "variant": variant, "batch_size": batch_size, "image_size": options.image_size}
        case |= {"precision": "bfloat16"}
        answer = contestant.ask(do="prepare", case=case)
        if "error" not in answer:
            answer = contestant.ask(do="time", seconds=options.seconds)
        if "error" in answer:
            no_memory = any(word in answer["error"].lower() for word in OUT_OF_MEMORY)
            stopped = "out of memory" if no_memory else answer["error"].splitlines()[0][:200]
            break
        median, spread = middle(answer["seconds"])
        speed = batch_size / median
        before = best["images_per_second"] if best else 0.0
        if speed > before:
            best = case | {"images_per_second": speed, "spread": spread, "tflops": operations * speed / 1e12}
            best |= {"bytes": answer["bytes"], "device": answer["device"]}
        if speed <= GROWTH * before or options.one_batch:
            break
        batch_size *= 2
    if best is None:
        print(f"  {kind}: left out: {stopped}", flush=True)
    return best


def run_model(name, variant, options, deadline):
    """The rows of one contestant and model, forward and training step."""
    print(f"{name} {variant}", flush=True)
    with Contestant(name, options.timm if name == "timm" else sys.executable, *CONTESTANTS[name]) as contestant:
        versions = contestant.ask(do="hello").get("versions")
        answer = contestant.ask(do="prepare", case={"kind": "limit", "side": options.side})
        if "error" in answer:
            print(f"  left out: {answer['error']} ({CONTESTANTS[name][0]} needs its packages)", flush=True)
            return []
        seconds, _ = middle(contestant.ask(do="time", seconds=options.seconds)["seconds"])
        limit, rows = 2.0 * options.side**3 / seconds / 1e12, []
        for kind in options.kinds:
            if row := sweep(contestant, variant, kind, options, deadline):
                row |= {"limit_tflops": limit, "mfu": row["tflops"] / limit, "versions": versions}
                rows.append({"contestant": name} | row)
        return rows


def measured(variants, options):
    """Yields the rows of each model, and names those for which there is no time."""
    deadline = time.perf_counter() + 60 * options.minutes
    found = []
    for variant in variants:
        for name in options.contestants:
            if time.perf_counter() < deadline:
                found += (rows := run_model(name, variant, options, deadline))
                yield rows
            else:
                print(f"Skipped for lack of time: {name} {variant}.")
    for text, ratio, target in ratios(found):
        print(f"{text}: {ratio:.2f} (target: {target:.2f})")


def ratios(rows):
    """`[(text, ratio, target)]`: this package against timm, and Mixer against ViT as in the paper (forward)."""
    speeds = {(row["contestant"], row["variant"], row["kind"]): row["images_per_second"] for row in rows}
    found = []
    for (contestant, variant, kind), speed in speeds.items():
        if contestant == "keras" and ("timm", variant, kind) in speeds:
            found.append((f"{variant} {kind}: keras / timm compiled", speed / speeds["timm", variant, kind], 1.0))
    for mixer, vit, paper in RATIOS:
        for contestant in CONTESTANTS:
            pair = [speeds.get((contestant, variant, "forward")) for variant in (mixer, vit)]
            if all(pair):
                found.append((f"{contestant}: {mixer} / {vit} forward", pair[0] / pair[1], paper))
    return found


def main():
    """Runs all models and prints their rows and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="MODEL", help=f"some of {', '.join(MODELS)}")
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=list(CONTESTANTS))
    parser.add_argument("--timm", default=sys.executable, metavar="PYTHON", help="with torch, timm and torchvision")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--seconds", type=float, default=2.0, help="per batch size")
    parser.add_argument("--minutes", type=float, default=9.0, help="do not start another model after this time")
    parser.add_argument("--one-batch", action="store_true", help="do not look for the best batch size")
    parser.add_argument("--tiny", action="store_true", help="small models and images, to test the script anywhere")
    parser.add_argument("--output", type=Path, help="JSON file; must not exist")
    options = parser.parse_args()
    options.image_size, options.side, options.batch_size, variants = 224, LIMIT_SIDE, None, MODELS
    if options.tiny:
        variants, options.image_size, options.side, options.batch_size = ("tiny/4", "ViT-tiny/4"), 16, 128, 4
    chosen = [variant for variant in variants if options.only is None or variant in options.only]
    record(measured(chosen, options), options.output)


if __name__ == "__main__":
    main()

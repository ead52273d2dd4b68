"""Benchmarks this package against other implementations on the same machine, each in its own process and environment.

    python benchmarks/run.py --timm PYTHON --flax PYTHON --kecam PYTHON --output benchmarks/results/NAME.json

PYTHON is the interpreter of an environment with the packages of a peer (timm: torch, timm, torchvision; Flax: flax and
optax; kecam: keras_cv_attention_models, tf-keras, TensorFlow). A peer that is not given is skipped; one that does not
start is reported and skipped. Contestants take turns, A B A B, while the others wait; results are medians over all
rounds. `--kinds` also accepts start, litert, input, memory, wrapper and growth: see `further.py`.
"""

import argparse
import dataclasses
import platform
import sys
from pathlib import Path

from contestants import Contestant, in_turn, middle, peers, record
from further import FURTHER

from keras_mixer.cores import available_cores
from keras_mixer.inspect.speed import CALLS, Case, limit_operations

# Other ways to run this package: arguments of `ours.py`, environment variables
OURS_OTHERWISE = {
    "keras_mixer, XLA": (["xla"], {}),
    "keras_mixer on JAX": ([], {"KERAS_BACKEND": "jax"}),
    "keras_mixer, SavedModel": (["export"], {"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1"}),
}


def summary(case, times, operations):
    """One row per contestant: images per second, spread, and fraction of the limit."""
    peak = limit_operations() / middle(times["limit"].seconds)[0] if "limit" in times else None
    rows = []
    for name, calls in times.items():
        if name != "limit":
            median, spread = middle(calls.seconds)
            rows.append(
                {
                    **case,
                    "contestant": name,
                    "images_per_second": case["batch_size"] / median,
                    "spread": spread,
                    "of_limit": None if peak is None else operations / median / peak,
                    "limit_gflops": None if peak is None else peak / 1e9,
                    "calls": len(calls.seconds),
                }
            )
    return rows


def passes_and_steps(options):
    """Yields the rows of each case of forward passes and training steps."""
    limit = Contestant("limit", sys.executable, "ours.py")
    contestants = [limit, Contestant("keras_mixer", sys.executable, "ours.py")]
    contestants += [
        Contestant(name, sys.executable, "ours.py", *words, environment=environment)
        for name, (words, environment) in OURS_OTHERWISE.items()
        if options.otherwise
    ]
    contestants += [Contestant(*peer) for peer in peers(options)]
    for variant in options.variants:
        for precision in options.precisions:
            for kind, batch_size in CALLS:
                if kind not in options.kinds:
                    continue
                described = Case(kind, variant, batch_size, precision, options.image_size)
                case = dataclasses.asdict(described)

                def own_case(contestant, case=case):
                    return {"kind": "limit", "precision": case["precision"]} if contestant is limit else case

                print(described.name, flush=True)
                times = in_turn(contestants, own_case, options.seconds, limit=limit)
                yield summary(case, times, described.operations())
    for contestant in contestants:
        contestant.stop()


def measured(options):
    """Yields the rows of each case of the requested kinds."""
    if {"forward", "train"} & set(options.kinds):
        yield from passes_and_steps(options)
    for kind, further in FURTHER.items():
        if kind in options.kinds:
            print(kind, flush=True)
            yield further(options)


def show(rows):
    """Prints one line per row."""
    for row in rows:
        parts = [f"{row['images_per_second']:9.2f} images/s"] if row.get("images_per_second") else []
        parts += [f"{row['images_per_cpu_second']:8.1f} per core"] if row.get("images_per_cpu_second") else []
        parts += [f"{row['seconds']:8.3f} s"] if row.get("seconds") else []
        parts += [f"+- {row['spread']:.0%}"] if "spread" in row else []
        parts += [f"{row['of_limit']:.2f} of the product"] if row.get("of_limit") else []
        parts += [f"{row['of_none']:.3f} of the time without distribution"] if "of_none" in row else []
        parts += [f"{row['bytes'] / 1e6:,.0f} MB"] if "bytes" in row else []
        print(f"  {row['contestant']:45} {'  '.join(parts)}", flush=True)


def environments(options):
    """`{contestant: {package: version}}`; the limit is measured by this package."""
    found = {}
    for name, *specification in [("keras_mixer", sys.executable, "ours.py"), *peers(options)]:
        contestant = Contestant(name, *specification)
        found[name] = contestant.ask(do="hello").get("versions", "does not start")
        contestant.stop()
    return found


def processor():
    """Name of the processor on Linux, else the machine type."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def main():
    """Runs all cases and prints one row per contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timm", help="Python of an environment with torch and timm")
    parser.add_argument("--flax", help="Python of an environment with flax and optax")
    parser.add_argument("--kecam", help="Python of an environment with keras_cv_attention_models and tf-keras")
    parser.add_argument("--variants", nargs="+", default=["S/32", "B/16"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    kinds = ("forward", "train", *FURTHER)
    parser.add_argument("--kinds", nargs="+", default=["forward", "train"], choices=kinds)
    parser.add_argument("--seconds", type=float, default=12.0, help="per case and contestant")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--repeats", type=int, default=5, help="new processes per contestant, for start")
    parser.add_argument("--start-variant", default="B/16")
    parser.add_argument("--otherwise", action="store_true", help="also XLA, JAX and a SavedModel of this package")
    parser.add_argument("--output", type=Path, help="JSON file; must not exist")
    options = parser.parse_args()
    if options.output and options.output.exists():
        parser.error(f"{options.output} exists already; remove it or choose another name.")
    content = {"processor": processor(), "cores": available_cores(), "rows": []}
    if options.output:
        content["environments"] = environments(options)
    record(content, measured(options), show, options.output)


if __name__ == "__main__":
    main()

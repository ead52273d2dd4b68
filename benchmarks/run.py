"""Benchmarks this package against other implementations on the same machine, each in its own process and environment.

    python benchmarks/run.py                                        # this package against the product of matrices
    python benchmarks/run.py --timm PYTHON --flax PYTHON --output benchmarks/results/NAME.json

PYTHON is the interpreter of an environment with the packages of a peer (timm: torch, timm, torchvision; Flax: flax and
optax). A peer that is not given is skipped; one that does not start is reported and skipped. Contestants take turns,
A B A B; results are medians over all rounds. `--kinds` also accepts litert, input, memory and growth.
"""

import argparse
import contextlib
import dataclasses
import sys
import tempfile
from pathlib import Path

from contestants import OURS, Contestant, competed, failed, in_turn, middle, peers, record
from photographs import write_photographs
from speed import CALLS, Case, limit_operations

OURS_OTHERWISE = {  # other ways to run this package: arguments of `ours.py`, environment variables
    "keras_mixer, XLA": (["xla"], {}),
    "keras_mixer on JAX": ([], {"KERAS_BACKEND": "jax"}),
    "keras_mixer, load": (["load"], {"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1"}),
    "keras_mixer, SavedModel": (["export"], {"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1"}),
}
PHOTOGRAPHS = 512


def summary(case, times):
    """One row per contestant: images per second, spread, and fraction of the limit."""
    peak = limit_operations() / middle(times["limit"].seconds)[0] if "limit" in times else None
    rows = []
    for name, calls in times.items():
        if name != "limit":
            median, spread = middle(calls.seconds)
            row = {**dataclasses.asdict(case), "contestant": name, "images_per_second": case.batch_size / median}
            row |= {"spread": spread, "calls": len(calls.seconds)}
            if peak:
                row |= {"of_limit": case.operations() / median / peak, "limit_gflops": peak / 1e9}
            rows.append(row)
    return rows


def passes_and_steps(options):
    """Yields the rows of each case of forward passes and training steps."""
    with contextlib.ExitStack() as running:
        limit = running.enter_context(Contestant("limit", *OURS[1:]))
        contestants = [limit]
        specifications = [(OURS, {}), *((peer, {}) for peer in peers(options))]
        if options.otherwise:
            specifications += [((name, *OURS[1:], *words), more) for name, (words, more) in OURS_OTHERWISE.items()]
        for specification, environment in specifications:
            contestants.append(running.enter_context(Contestant(*specification, environment=environment)))
        kinds = [call for call in CALLS if call[0] in options.kinds]
        for variant in options.variants:
            for precision in options.precisions:
                for kind, batch_size in kinds:
                    case = Case(kind, variant, batch_size, precision, options.image_size)
                    requests = dict.fromkeys(contestants, dataclasses.asdict(case))
                    requests[limit] = {"kind": "limit", "precision": precision}
                    print(case.name, flush=True)
                    yield summary(case, in_turn(contestants, requests.get, options.seconds, limit=limit))


def _case(kind, variant, batch_size, image_size=224, **more):
    return dataclasses.asdict(Case("train", variant, batch_size, "float32", image_size)) | {"kind": kind} | more


def _rows(case, times, images):
    """One row per contestant."""
    rows = []
    for name, calls in times.items():
        median, spread = middle(calls.seconds)
        row = {**case, "contestant": name, "seconds": median, "spread": spread, "calls": len(calls.seconds)}
        row |= {"images_per_second": images / median}
        rows.append(row | {"images_per_cpu_second": images * len(calls.seconds) / calls.cpu_seconds})
    return rows


def litert(options):
    """LiteRT files on two threads against the Keras model and timm, one image at a time, float32 pixels."""
    formats = ("float32", "dynamic_int8", "int8", "float16")
    specifications = [(f"LiteRT {name}", sys.executable, "ours.py", "litert", name) for name in formats]
    specifications += [OURS, *(peer for peer in peers(options) if "timm" in peer[0])]
    rows = []
    for variant in options.variants:
        case = _case("forward", variant, 1, options.image_size)
        rows += _rows(case | {"kind": "litert"}, competed(specifications, case, options.seconds), images=1)
    return rows


def inputs(options):
    """The training pipeline against timm's loader, on the same files and cores."""

    def ours(name, *words):
        return (name, sys.executable, "ours_input.py", *words)

    specifications = [ours("keras_mixer"), ours("keras_mixer, crop and flip only", "plain")]
    if options.timm:
        loaders = {"": (), ", mixup in its workers": ("collate",), ", all operations applied": ("collate", "always")}
        specifications += [(f"timm{text}", options.timm, "timm_input.py", *word) for text, word in loaders.items()]
    with tempfile.TemporaryDirectory() as folder:
        mean_bytes = write_photographs(Path(folder), PHOTOGRAPHS)
        case = {"kind": "input", "folder": folder, "image_size": options.image_size, "batch_size": 64, "batches": 4}
        times = competed(specifications, case, options.seconds, stale=True)
        rows = _rows(case | {"folder": "photographs", "bytes_of_a_file": mean_bytes}, times, images=64 * 4)
        fed = _case("fed", "S/32", 64, options.image_size, folder=folder)
        from_memory = ours("S/32 training, fed by one batch in memory", "memory")
        times = competed([from_memory, ours("S/32 training, fed by the pipeline")], fed, options.seconds, stale=True)
    return rows + _rows(fed | {"folder": "photographs"}, times, images=64)


def memory(options):
    """Peak memory of a training step on top of the built model, each in a new process, and its time."""
    rows = []
    for variant, batch_size in (("S/16", 16), ("B/16", 8)):
        case = _case("train", variant, batch_size, options.image_size)
        ours = [OURS, ("keras_mixer rematerialized", sys.executable, "ours.py", "rematerialize")]
        bytes_of = {}
        for specification in ours + peers(options):  # one at a time, because each is large
            with Contestant(*specification) as contestant:
                answer = contestant.ask(do="memory", case=case)
            if not failed(contestant, answer):
                bytes_of[contestant.name] = answer["bytes"]
        rows_of_ours = _rows(case, competed(ours, case, options.seconds), images=batch_size)
        timed = {row["contestant"]: row for row in rows_of_ours}
        for name, count in bytes_of.items():
            row = {**case, "contestant": name, "seconds": None, "calls": 0} | timed.get(name, {})
            rows.append(row | {"kind": "memory", "bytes": count})
    return rows


def growth(options):
    """Time of a forward pass and of a training step against image size, batch size and depth."""
    changes = [{"image_size": side} for side in (96, 224, 448, 672)]
    changes += [{"batch_size": size} for size in (1, 2, 4, 16, 32)]
    changes += [{"num_blocks": count} for count in (4, 16)]
    rows = []
    for kind in ("forward", "train"):
        for change in changes:
            with Contestant(*OURS) as contestant:
                case = _case(kind, "S/32", 8) | change
                times = in_turn([contestant], case, options.seconds)
            rows += _rows(case | {"kind": "growth", "training": kind == "train"}, times, images=case["batch_size"])
    return rows


FURTHER = {"litert": litert, "input": inputs, "memory": memory, "growth": growth}


def measured(options):
    """Yields the rows of each case of the requested kinds."""
    if {"forward", "train"} & set(options.kinds):
        yield from passes_and_steps(options)
    for kind, further in FURTHER.items():
        if kind in options.kinds:
            print(kind, flush=True)
            yield further(options)


def main():
    """Runs all cases and prints one row per contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timm", help="Python of an environment with torch and timm")
    parser.add_argument("--flax", help="Python of an environment with flax and optax")
    parser.add_argument("--variants", nargs="+", default=["S/32", "B/16"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--kinds", nargs="+", default=["forward", "train"], choices=("forward", "train", *FURTHER))
    parser.add_argument("--seconds", type=float, default=12.0, help="per case and contestant")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--otherwise", action="store_true", help="also XLA, JAX, load and a SavedModel of this package")
    parser.add_argument("--output", type=Path, help="JSON file; must not exist")
    options = parser.parse_args()
    record(measured(options), options.output, [OURS, *peers(options)])


if __name__ == "__main__":
    main()

"""Benchmarks this package against other implementations on the same machine, each in its own process and environment.

    python benchmarks/run.py                                        # this package against the product of matrices
    python benchmarks/run.py --timm PYTHON --flax PYTHON --output benchmarks/results/NAME.json

PYTHON is the interpreter of an environment with the packages of a peer (timm: torch, timm, torchvision; Flax: flax and
optax). A peer that is not given is skipped; one that does not
start is reported and skipped. Contestants take turns, A B A B, while the others wait; results are medians over all
rounds. `--kinds` also accepts litert, input, memory and growth: see `further.py`.
"""

import argparse
import contextlib
import dataclasses
from pathlib import Path

from contestants import OURS, Contestant, in_turn, middle, peers, record
from further import FURTHER
from speed import CALLS, Case, limit_operations

# Other ways to run this package: arguments of `ours.py`, environment variables
OURS_OTHERWISE = {
    "keras_mixer, XLA": (["xla"], {}),
    "keras_mixer on JAX": ([], {"KERAS_BACKEND": "jax"}),
    "keras_mixer, SavedModel": (["export"], {"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1"}),
}


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
                    requests = {limit: {"kind": "limit", "precision": precision}}

                    def request(contestant, requests=requests, case=case):
                        return requests.get(contestant, dataclasses.asdict(case))

                    print(case.name, flush=True)
                    yield summary(case, in_turn(contestants, request, options.seconds, limit=limit))


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
    kinds = ("forward", "train", *FURTHER)
    parser.add_argument("--kinds", nargs="+", default=["forward", "train"], choices=kinds)
    parser.add_argument("--seconds", type=float, default=12.0, help="per case and contestant")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--otherwise", action="store_true", help="also XLA, JAX and a SavedModel of this package")
    parser.add_argument("--output", type=Path, help="JSON file; must not exist")
    options = parser.parse_args()
    record(measured(options), options.output, [OURS, *peers(options)])


if __name__ == "__main__":
    main()

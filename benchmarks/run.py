"""Times this package and its peers on the same machine, in turn, each in a process and an environment of its own.

    python benchmarks/run.py --timm PYTHON --flax PYTHON --output benchmarks/results/NAME.json

PYTHON is the interpreter of an environment with what a peer needs (timm: torch and timm; Flax: flax and optax). A peer
that is not named or does not start is left out, by name. Every contestant makes its calls of a case in rounds, A B A B,
while the others wait; figures are medians over all rounds.
"""

import argparse
import dataclasses
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
from protocol import MARK

from keras_mixer.analysis.speed import CALLS, Case, limit_operations
from keras_mixer.files import write_json

FOLDER = Path(__file__).parent
ROUNDS = 3


class Contestant:
    """A process that answers the requests of `protocol.py`."""

    def __init__(self, name, python, script, *arguments):
        self.name = name
        environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(FOLDER.parent)}
        self.process = subprocess.Popen(
            [python, str(FOLDER / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, **request):
        """The answer to a request; an `error` when the process is gone."""
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"error": "the process ended"}
        for line in self.process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        return {"error": "the process ended"}

    def stop(self):
        """Ends the process."""
        self.process.stdin.close()
        self.process.wait(timeout=60)


def measure(contestants, limit, case, seconds):
    """`{name: seconds of each call}` of a case, the limit among them; who fails is named and left out."""
    limit_case = {"kind": "limit", "precision": case["precision"]}
    there = {}
    for contestant in contestants:
        answer = contestant.ask(do="prepare", case=limit_case if contestant is limit else case)
        if "error" in answer:
            print(f"  {contestant.name} left out: {answer['error'].splitlines()[0][:150]}")
        else:
            there[contestant] = []
    for _ in range(ROUNDS):
        for contestant, times in there.items():
            share = seconds / ROUNDS / (3 if contestant is limit else 1)
            times += contestant.ask(do="time", seconds=share).get("seconds", [])
    return {contestant.name: times for contestant, times in there.items() if times}


def summary(case, times, operations):
    """One row for each contestant: images a second, spread, and the share of the limit."""
    medians = {name: float(np.median(values)) for name, values in times.items()}
    peak = limit_operations() / medians["limit"] if "limit" in medians else None
    rows = []
    for name, values in times.items():
        if name != "limit":
            low, high = np.quantile(values, [0.25, 0.75])
            rows.append(
                {
                    **case,
                    "contestant": name,
                    "images_per_second": case["batch_size"] / medians[name],
                    "spread": float((high - low) / 2 / medians[name]),
                    "of_limit": None if peak is None else operations / medians[name] / peak,
                    "limit_gflops": None if peak is None else peak / 1e9,
                    "calls": len(values),
                }
            )
    return rows


def write(output, rows):
    """Everything measured so far; after each case, because a whole run takes most of an hour."""
    write_json(output, {"machine": platform.machine(), "cores": os.cpu_count(), "rows": rows})


def main():
    """Runs all cases and prints a row for each contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timm", help="Python of an environment with torch and timm")
    parser.add_argument("--flax", help="Python of an environment with flax and optax")
    parser.add_argument("--variants", nargs="+", default=["S/32", "B/16"])
    parser.add_argument("--precisions", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--kinds", nargs="+", default=["forward", "train"])
    parser.add_argument("--seconds", type=float, default=12.0, help="of each case and contestant")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--output", type=Path, help="JSON file; must not exist")
    options = parser.parse_args()
    if options.output and options.output.exists():
        parser.error(f"{options.output} exists already.")
    limit = Contestant("limit", sys.executable, "ours.py")
    contestants = [limit, Contestant("keras_mixer", sys.executable, "ours.py")]
    if options.timm:
        contestants += [Contestant("timm", options.timm, "timm_peer.py")]
        contestants += [Contestant("timm compiled", options.timm, "timm_peer.py", "compile")]
    if options.flax:
        contestants += [Contestant("flax", options.flax, "flax_peer.py")]
    rows = []
    for variant in options.variants:
        for precision in options.precisions:
            for kind, batch_size in CALLS:
                if kind not in options.kinds:
                    continue
                described = Case(kind, variant, batch_size, precision, options.image_size)
                print(described.name, flush=True)
                case = dataclasses.asdict(described)
                found = summary(case, measure(contestants, limit, case, options.seconds), described.operations())
                for row in found:
                    share = "" if row["of_limit"] is None else f"{row['of_limit']:.2f} of the product"
                    speed = f"{row['images_per_second']:8.2f} images/s +- {row['spread']:.0%}"
                    print(f"  {row['contestant']:14} {speed}  {share}", flush=True)
                rows += found
                if options.output:
                    write(options.output, rows)
    for contestant in contestants:
        contestant.stop()


if __name__ == "__main__":
    main()

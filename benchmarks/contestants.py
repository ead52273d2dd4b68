"""The processes that are compared, how they take turns, and where their results go."""

import contextlib
import dataclasses
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
from protocol import MARK

FOLDER = Path(__file__).parent
ROUNDS = 3
OURS = ("keras_mixer", sys.executable, "ours.py")


class Contestant:
    """A process that answers the requests of `protocol.py`: a script of this folder in the environment of `python`."""

    def __init__(self, name, python, script, *arguments, environment=()):
        self.name = name
        self.process = subprocess.Popen(
            [python, str(FOLDER / script), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONPATH": str(FOLDER.parent)} | dict(environment),
        )

    def ask(self, **request):
        """The answer to a request, or an `error` if the process has ended."""
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return {"error": "the process ended"}
        for line in self.process.stdout:
            if line.startswith(MARK):
                return json.loads(line.removeprefix(MARK))
        return {"error": "the process ended"}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        with contextlib.suppress(BrokenPipeError):  # it has ended already, for want of memory
            self.process.stdin.close()
        self.process.wait(timeout=60)


def peers(options):
    """`[(name, python, script, arguments...)]` of the other implementations given on the command line."""
    found = []
    if options.timm:
        found += [("timm", options.timm, "timm_peer.py"), ("timm compiled", options.timm, "timm_peer.py", "compile")]
    if options.flax:
        found += [("flax", options.flax, "flax_peer.py")]
    return found


def failed(contestant, answer):
    """Whether an answer is an error; prints it."""
    if "error" in answer:
        print(f"  {contestant.name} left out: {answer['error'].splitlines()[0][:150]}", flush=True)
    return "error" in answer


@dataclasses.dataclass
class Calls:
    """Wall seconds of each call, and CPU seconds of all calls."""

    seconds: list[float] = dataclasses.field(default_factory=list)
    cpu_seconds: float = 0.0


def in_turn(contestants, case, seconds, rounds=ROUNDS, limit=None, stale=False, **request):
    """`{name: Calls}` of a case: each contestant is prepared, then they take turns, A B A B.

    Args:
        contestants: those that fail are reported and left out.
        case: a dict for all contestants, or a function that returns the case of a contestant.
        seconds: of calls per contestant, over all rounds.
        rounds: number of rounds.
        limit: a contestant that gets a third of the time.
        stale: discard the first calls of a round, whose results were prefetched while the contestant waited.
        **request: of `protocol.serve`'s request `time`: `fewest` and `in_flight`.
    """
    running = {}
    for contestant in contestants:
        if not failed(contestant, contestant.ask(do="prepare", case=case(contestant) if callable(case) else case)):
            running[contestant] = Calls()
    for _ in range(rounds):
        for contestant, calls in running.items():
            budget = seconds / rounds / (3 if contestant is limit else 1)
            if stale:
                contestant.ask(do="time", seconds=0)
            answer = contestant.ask(do="time", seconds=budget, **request)
            calls.seconds += answer.get("seconds", [])
            calls.cpu_seconds += answer.get("cpu_seconds", 0.0)
    return {contestant.name: calls for contestant, calls in running.items() if calls.seconds}


def competed(specifications, case, seconds, environment=(), **how):
    """`in_turn` with processes that are started and stopped for it."""
    with contextlib.ExitStack() as running:
        contestants = [running.enter_context(Contestant(*one, environment=environment)) for one in specifications]
        return in_turn(contestants, case, seconds, **how)


def middle(values):
    """`median, spread`: the spread is half the interquartile range as a fraction of the median."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float(median), float((high - low) / 2 / median) if median else 0.0


SHOWN = {  # of a row, as far as it has them
    "kind": "{:8}",
    "batch_size": "batch {:5}",
    "in_flight": "{} in flight",
    "images_per_second": "{:10.2f} images/s",
    "images_per_cpu_second": "{:8.1f} per core",
    "seconds": "{:8.3f} s",
    "spread": "+- {:.0%}",
    "fastest_ms": "fastest {:7.1f} ms",
    "p50_ms": "p50 {:7.1f} ms",
    "p99_ms": "p99 {:7.1f} ms",
    "of_limit": "{:.2f} of the product",
    "of_baseline": "{:.2f} x the baseline",
    "mfu": "MFU {:.2f}",
    "bytes": "{:,} bytes",
}


def record(cases, output, specifications=()):
    """Shows the rows of each case, and writes them with the machine and the versions of some contestants.

    The JSON file `output`, if there is one, is written after each case, because a run can take an hour.
    """
    if output and output.exists():
        raise SystemExit(f"{output} exists already; remove it or choose another name.")
    content = {"processor": processor(), "cores": len(os.sched_getaffinity(0)), "environments": {}, "rows": []}
    for specification in specifications if output else ():
        with Contestant(*specification) as contestant:
            content["environments"][contestant.name] = contestant.ask(do="hello").get("versions", "does not start")
    for found in cases:
        for row in found:
            parts = [text.format(row[key]) for key, text in SHOWN.items() if row.get(key) is not None]
            print(f"  {row['contestant']:45} {'  '.join(parts)}", flush=True)
        content["rows"] += found
        if output:
            output.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def processor():
    """Name of the processor on Linux, else the machine type."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())

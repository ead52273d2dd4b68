"""The processes compared by `run.py`, and how they take turns."""

import contextlib
import dataclasses
import json
import os
import subprocess
from pathlib import Path

import numpy as np
from protocol import MARK

from keras_mixer.files import write_json

FOLDER = Path(__file__).parent
ROUNDS = 3


class Contestant:
    """A process that answers the requests of `protocol.py`.

    Args:
        name: name in tables.
        python: interpreter of its environment.
        script: file name in this folder.
        *arguments: passed to the script.
        environment: additional environment variables.
    """

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

    def stop(self):
        """Ends the process."""
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
    if options.kecam:
        found += [("kecam", options.kecam, "kecam_peer.py")]
    return found


def failed(contestant, answer):
    """Whether an answer is an error; prints it."""
    if "error" in answer:
        print(f"  {contestant.name} left out: {answer['error'].splitlines()[0][:150]}", flush=True)
    return "error" in answer


@dataclasses.dataclass
class Calls:
    """Wall seconds of each call, and CPU seconds of all calls."""

    seconds: list[float]
    cpu_seconds: float = 0.0


def in_turn(contestants, case, seconds, rounds=ROUNDS, limit=None, stale=False, **request):
    """`{name: Calls}` of a case; contestants that fail are reported and left out.

    Args:
        contestants: each is prepared for the case, then they take turns, A B A B.
        case: a dict for all contestants, or a function that returns the case of a contestant.
        seconds: seconds of calls per contestant, over all rounds.
        rounds: number of rounds.
        limit: a contestant that gets a third of the time.
        stale: discard the first calls of each round, which return results prefetched while the contestant waited.
        **request: of `protocol.serve`'s request `time`: `fewest` and `in_flight`.
    """
    running = {}
    for contestant in contestants:
        if not failed(contestant, contestant.ask(do="prepare", case=case(contestant) if callable(case) else case)):
            running[contestant] = Calls([])
    for _ in range(rounds):
        for contestant, calls in running.items():
            budget = seconds / rounds / (3 if contestant is limit else 1)
            if stale:
                contestant.ask(do="time", seconds=0)
            answer = contestant.ask(do="time", seconds=budget, **request)
            calls.seconds += answer.get("seconds", [])
            calls.cpu_seconds += answer.get("cpu_seconds", 0.0)
    return {contestant.name: calls for contestant, calls in running.items() if calls.seconds}


def record(content, cases, show, output):
    """Shows the rows of each case as they come, and adds them to `content["rows"]`.

    Args:
        content: a dict for JSON; written after each case, because a full run takes up to an hour.
        cases: yields the rows of each case.
        show: prints the rows of a case.
        output: the JSON file, or None.
    """
    for found in cases:
        show(found)
        content["rows"] += found
        if output:
            write_json(output, content)


def middle(values):
    """`median, spread`: the spread is half the interquartile range as a fraction of the median."""
    low, median, high = np.quantile(values, [0.25, 0.5, 0.75])
    return float(median), float((high - low) / 2 / median) if median else 0.0

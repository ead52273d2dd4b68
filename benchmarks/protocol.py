"""How `run.py` talks to a contestant: one JSON request a line, one JSON answer a line. Standard library only.

A contestant is a script in an environment of its own that calls `serve`. Frameworks print what they like to standard
output while they start, so answers carry a mark.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path

MARK = "benchmark answer: "
FEWEST_CALLS = 3
PACKAGES = ("numpy", "keras", "tensorflow", "tensorflow-cpu", "tf-keras", "keras-cv-attention-models", "jax", "flax")
PACKAGES = (*PACKAGES, "torch", "timm", "pillow", "ai-edge-litert")


def serve(prepare, device=None):
    """Answers requests until standard input ends.

    Requests: `hello` (gives versions), `prepare` a case and call it twice, `time` its calls for some seconds, `fewest`
    at least (their seconds, and those of all cores together), `first` (prepare a case, call it once: seconds of both),
    `memory` (prepare a case, call it twice: peak above what was there before).

    Args:
        prepare: takes a case (a dict with kind, variant, batch_size, precision, image_size; kind "limit" is a product
            of square matrices) and gives a function without arguments that makes one call and waits for its result.
            Raises for a case that the contestant does not have.
        device: gives name and most bytes in use so far of the device, a dict to go with the times.
    """
    call = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "hello":
                answer = {"versions": _versions()}
            elif request["do"] == "time":
                before = _cpu_seconds_of_children() + time.process_time()
                seconds = timed(call, request["seconds"], request.get("fewest", FEWEST_CALLS))
                used = time.process_time() + _cpu_seconds_of_children() - before  # in an order that counts no looking
                answer = {"seconds": seconds, "cpu_seconds": used}
                answer |= device() if device else {}
            else:
                call = None  # frees the memory of the case before
                began = time.perf_counter()
                call = prepare(request["case"])
                prepared = time.perf_counter()
                before = _forget_peak() if request["do"] == "memory" else 0
                call()
                answer = {"prepare": prepared - began, "first": time.perf_counter() - prepared}
                if request["do"] != "first":
                    call()
                if request["do"] == "memory":
                    answer["bytes"] = _memory("VmHWM") - before
        except Exception as error:  # whatever a framework raises is for the other side to report
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(MARK + json.dumps(answer), flush=True)


def timed(call, seconds, fewest=FEWEST_CALLS):
    """Seconds of each call, for about so long and so often at least."""
    times = []
    end = time.perf_counter() + seconds
    while len(times) < fewest or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times


def _cpu_seconds_of_children():
    """Time that cores spent on the children of this process (workers of a loader); Linux only, else 0."""
    total, ticks = 0.0, os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 1
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            fields = entry.read_text(encoding="utf-8").rsplit(")", 1)[1].split()  # from the state on
            if int(fields[1]) == os.getpid():
                total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def _versions():
    """`{package: version}` of the packages that matter, as far as they are installed."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def _forget_peak():
    """Bytes in use now, from which the peak counts anew. Linux only."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _memory("VmRSS")


def _memory(entry):
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith(entry))
    return int(kilobytes) * 1024

"""Between a benchmark and its contestants: one JSON request and one JSON answer per line. Standard library only.

A contestant is a script that calls `serve`, in its own environment. Frameworks print to standard output at startup, so
answers start with a marker.
"""

import concurrent.futures
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
PACKAGES = ("numpy", "keras", "tensorflow", "tensorflow-cpu", "jax", "flax", "torch", "timm", "pillow")
PACKAGES = (*PACKAGES, "ai-edge-litert", "onnxruntime", "openvino")


def serve(prepare, device=None):
    """Answers requests until the end of standard input.

    Requests:
    - `hello`: returns versions.
    - `prepare`: prepares a case and calls it twice.
    - `time`: times calls for some seconds, at least `fewest`, in one thread or `in_flight` threads at once; returns
      wall seconds per call and CPU seconds in total.
    - `memory`: prepares a case and calls it twice; returns the peak memory above that in use before the calls.

    `prepare` takes a case (the fields of `speed.Case`; kind "limit" is a product of square matrices) and returns a
    function that makes one call and waits for its result. `device` returns name and peak memory of the device, as a
    dict that is added to the times.
    """
    call = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "hello":
                answer = {"versions": _versions()}
            elif request["do"] == "time":
                before = _cpu_seconds_of_children() + time.process_time()
                seconds = timed(call, request)
                used = time.process_time() + _cpu_seconds_of_children() - before  # order excludes reading /proc
                answer = {"seconds": seconds, "cpu_seconds": used} | (device() if device else {})
            else:
                call = None  # frees the memory of the previous case
                call = prepare(request["case"])
                before = reset_peak() if request["do"] == "memory" else 0
                for _ in range(2):
                    call()
                answer = {"bytes": memory("VmHWM") - before} if request["do"] == "memory" else {}
        except Exception as error:  # the benchmark reports whatever a framework raises
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(MARK + json.dumps(answer), flush=True)


def timed(call, request):
    """Seconds of each call of a request `time`, of all its threads."""
    arguments = call, request["seconds"], request.get("fewest", FEWEST_CALLS)
    threads = request.get("in_flight", 1)
    if threads == 1:
        return time_calls(*arguments)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        running = [pool.submit(time_calls, *arguments) for _ in range(threads)]
        return [seconds for thread in running for seconds in thread.result()]


def time_calls(call, seconds, fewest=FEWEST_CALLS):
    """Seconds of each call, repeated for about `seconds` and at least `fewest` times."""
    times = []
    end = time.perf_counter() + seconds
    while len(times) < fewest or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times


def _cpu_seconds_of_children():
    """CPU seconds of the child processes (workers of a data loader); 0 if not on Linux."""
    total, ticks = 0.0, os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 1
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # the process has just ended
            fields = entry.read_text(encoding="utf-8").rsplit(")", 1)[1].split()  # from the state on
            if int(fields[1]) == os.getpid():
                total += (int(fields[11]) + int(fields[12])) / ticks
    return total


def _versions():
    """`{package: version}` of the relevant packages that are installed."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def reset_peak():
    """Resets the peak memory; returns the bytes in use now. Linux only."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return memory("VmRSS")


def memory(entry):
    """An entry of /proc/self/status in bytes: VmHWM is the peak, VmRSS is in use. Linux only."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith(entry))
    return int(kilobytes) * 1024

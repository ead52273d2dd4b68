"""How `run.py` talks to a contestant: one JSON request a line, one JSON answer a line. Standard library only.

A contestant is a script in an environment of its own that calls `serve`. Frameworks print what they like to standard
output while they start, so answers carry a mark.
"""

import json
import sys
import time

MARK = "benchmark answer: "
FEWEST_CALLS = 3


def serve(prepare):
    """Answers requests until standard input ends.

    Args:
        prepare: takes a case (a dict with kind, variant, batch_size, precision, image_size; kind "limit" is a product
            of square matrices) and gives a function without arguments that makes one call and waits for its result.
            Raises for a case that the contestant does not have.
    """
    call = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["do"] == "prepare":
                call = None  # frees the memory of the case before
                call = prepare(request["case"])
                call()
                call()
                answer = {}
            else:
                answer = {"seconds": timed(call, request["seconds"])}
        except Exception as error:  # whatever a framework raises is for the other side to report
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(MARK + json.dumps(answer), flush=True)


def timed(call, seconds):
    """Seconds of each call, for about so long and at least three times."""
    times = []
    end = time.perf_counter() + seconds
    while len(times) < FEWEST_CALLS or time.perf_counter() < end:
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return times

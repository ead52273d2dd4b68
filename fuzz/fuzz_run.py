"""Fuzzes readers with damaged inputs: python fuzz/fuzz_run.py [TARGET ...] --examples 10000 --seed 1."""

import argparse
import collections
import resource
import time

import hypothesis
from fuzz_targets import TARGETS, Target


def fuzz(target: Target, examples, seed) -> collections.Counter:
    """Runs `examples` inputs; returns the number of each outcome.

    Raises:
        Exception: an undocumented error of the reader, with the smallest input that causes it.
    """
    outcomes: collections.Counter = collections.Counter()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=examples,
        deadline=None,
        database=None,
        print_blob=False,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(target.inputs)
    def feed(some):
        try:
            target.read(some)
        except target.allowed as error:
            outcomes[type(error).__name__] += 1
        else:
            outcomes["read"] += 1

    feed()
    return outcomes


def main():
    """Prints one line per target."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=", ".join(TARGETS))
    parser.add_argument("--examples", type=int, default=10_000, help="inputs per target")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in options.targets:
        began = time.perf_counter()
        outcomes = fuzz(TARGETS[name], options.examples, options.seed)
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
        seconds = time.perf_counter() - began
        print(f"{name}: {outcomes.total():,} inputs, {seconds:.0f} s, {dict(outcomes)}, process up to {largest:,} MB")


if __name__ == "__main__":
    main()

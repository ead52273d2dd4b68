"""Contestant: this package, and the matrix product in the same framework."""

import sys

from protocol import serve

from keras_mixer.inspect.speed import Case, prepare, prepare_limit

REMATERIALIZE = "rematerialize" in sys.argv[1:]


def _prepare(case):
    if case["kind"] == "limit":
        return prepare_limit(case["precision"])
    return prepare(Case(**case), REMATERIALIZE)


serve(_prepare)

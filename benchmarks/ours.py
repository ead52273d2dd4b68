"""Contestant: this package, and the machine's matrix product through the same framework."""

from protocol import serve

from keras_mixer.analysis.speed import Case, prepare, prepare_limit


def _prepare(case):
    if case["kind"] == "limit":
        return prepare_limit(case["precision"])
    return prepare(Case(**case))


serve(_prepare)

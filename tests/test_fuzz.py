"""A short run of the fuzzers in `fuzz/`."""

import pytest
from fuzz_run import fuzz
from fuzz_targets import TARGETS

EXAMPLES = 60


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_give_documented_errors_only(name):
    outcomes = fuzz(TARGETS[name], EXAMPLES, seed=2)
    assert outcomes.total() >= EXAMPLES
    assert len(outcomes) > 1, "inputs of one kind only say little"

import os

import pytest

from keras_mixer.fast_cpu import available_cores


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to cores here")
def test_a_process_bound_to_one_core_has_one():
    cores = os.sched_getaffinity(0)
    assert available_cores() == len(cores)
    os.sched_setaffinity(0, {min(cores)})
    try:
        assert available_cores() == 1
    finally:
        os.sched_setaffinity(0, cores)

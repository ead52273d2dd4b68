import os
import subprocess
import sys

import pytest

from keras_mixer.cores import available_cores


def test_there_is_a_core():
    assert 1 <= available_cores() <= os.cpu_count()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be bound to cores here")
def test_a_process_bound_to_one_core_prepares_one_image_at_a_time():
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from keras_mixer.data.splits import PARALLEL_CALLS; "
        "print(PARALLEL_CALLS)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out == "1\n"

"""The number of CPU cores available to this process."""

import os


def available_cores() -> int:
    """Cores that this process may use; containers and job schedulers often grant fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

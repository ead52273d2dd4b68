"""The largest batch that fits into the memory of a chip, found by compiling a few sizes."""

from collections.abc import Callable

from keras_mixer.training.compile_only import CompileReport

PRECISION = 8  # the batch one part in so many larger does not fit


def search_largest_batch(compile_batch: Callable[[int], CompileReport], unit, first) -> CompileReport | None:
    """The largest global batch that fits, to within an eighth: a larger one was compiled and does not fit.

    At first memory grows with the batch. Near the limit XLA computes things again instead of keeping them, at the cost
    of more FLOPs, so that much larger batches than a straight line promises can still fit.

    Args:
        compile_batch: compiles for a global batch size.
        unit: what a batch must be a multiple of: chips, times pieces of accumulation.
        first: global batch size to start with.

    Returns:
        The report of that batch; None where a batch of `unit` does not fit.
    """
    low, best = 0, None  # in units: the largest known to fit
    high: int | None = None  # the smallest known not to
    count = max(first // unit, 1)
    while True:
        report = compile_batch(count * unit)
        if report.fits:
            low, best = count, report
        else:
            high = count
        if high is not None and high - low <= max(low // PRECISION, 1):
            return best
        if high is not None:
            count = _rounded((low + high) // 2, low)
        else:
            fixed = (report.argument_bytes or 0) + (report.code_bytes or 0)
            room = (report.hbm_limit_bytes - fixed) / max(report.hbm_bytes - fixed, 1)
            count = _rounded(int(low * max(room, 1.5)), low)


def _rounded(count, low):
    """A number with few significant bits, as hardware prefers, but more than `low`."""
    grain = 1 << max((count // PRECISION).bit_length() - 1, 0)
    return max(count // grain * grain, low + 1)

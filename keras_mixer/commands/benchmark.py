"""Measure speed on this machine against its own limit: benchmark."""

import dataclasses
import platform
from pathlib import Path
from typing import Literal

import keras
import numpy as np

from keras_mixer.commands.terminal import parse, print_table
from keras_mixer.files import refuse_existing, write_json
from keras_mixer.inspect.speed import CALLS, Case, limit_operations, prepare, prepare_limit, rounds

Variants = Literal["S/32", "S/16", "B/32", "B/16", "L/32", "L/16", "H/14"]


def run(arguments):
    """Measure speed on this machine against its own limit: benchmark."""
    parse(benchmark, "benchmark", arguments)


def benchmark(
    variants: tuple[Variants, ...] = ("S/32", "B/16"),
    precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16"),
    image_size: int = 224,
    seconds: float = 10.0,
    output: Path | None = None,
):
    """Time forward passes and training steps beside the machine's matrix product, in turn, in one run.

    Args:
        variants: rows of Table 1.
        precisions: of the arithmetic; bfloat16 is Keras's mixed_bfloat16.
        image_size: side of the images in pixels.
        seconds: how long to time each case.
        output: JSON file for the results; must not exist.
    """
    if output is not None:
        refuse_existing(output)
    cases = [
        Case(kind, variant, batch_size, precision, image_size)
        for variant in variants
        for precision in precisions
        for kind, batch_size in CALLS
    ]
    results = []
    for case in cases:
        call, limit = prepare(case), prepare_limit(case.precision)
        for warm_up in (call, call, limit, limit):
            warm_up()
        own: list[float] = []
        product: list[float] = []
        for _ in range(3):  # in turn, so that both meet the same machine
            own += rounds(call, seconds / 4)
            product += rounds(limit, seconds / 12)
        results.append(_result(case, own, product))
        print(f"{case.name}: {results[-1]['images_per_second']:.1f} images/s", flush=True)
    print()
    print_table(
        ("case", "images/s", "spread", "GFLOP/s", "of the product", "limit GFLOP/s"),
        [
            (
                result["name"],
                f"{result['images_per_second']:.2f}",
                f"{result['spread']:.0%}",
                f"{result['gflops']:.0f}",
                f"{result['of_limit']:.2f}",
                f"{result['limit_gflops']:.0f}",
            )
            for result in results
        ],
    )
    if output is not None:
        content = {
            "machine": platform.processor() or platform.machine(),
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
            "results": results,
        }
        write_json(output, content)
        print(f"\nWritten to {output}.")


def _result(case, own, product):
    """Medians, and half the distance of the quartiles as spread."""
    median, limit = np.median(own), np.median(product)
    low, high = np.quantile(own, [0.25, 0.75])
    gflops, limit_gflops = case.operations() / median / 1e9, limit_operations() / limit / 1e9
    return {
        "name": case.name,
        **dataclasses.asdict(case),
        "images_per_second": float(case.batch_size / median),
        "spread": float((high - low) / 2 / median),
        "gflops": float(gflops),
        "limit_gflops": float(limit_gflops),
        "of_limit": float(gflops / limit_gflops),
        "calls": len(own),
    }

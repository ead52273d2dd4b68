"""Benchmarks exports on the CPUs of this machine with 1, 2 and 4 requests in flight, in process and without a network.

    python benchmarks/serving.py --output benchmarks/results/serving.json

Needs the extras onnx and openvino. A SavedModel runs in a session, which is how TensorFlow Serving runs it. Each
runtime has its own process; they take turns, A B A B, while the others wait. The latency of a request includes waiting
for the cores that the other requests use. "frozen" sets TF_ONEDNN_ASSUME_FROZEN_WEIGHTS=1 (see docs/guides/serving.md).
"""

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

import numpy as np
from contestants import Contestant, in_turn, record
from speed import Case, model_of

import keras_mixer
from keras_mixer.export.interchange import write_onnx, write_openvino
from keras_mixer.export.predictor import Predictor

FROZEN = {"TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1"}
BASELINE = "ONNX Runtime"
# Name in tables, export, precision of the computation, additional environment variables
CONTESTANTS = (
    ("SavedModel float32", "float32", "float32", {}),
    ("SavedModel float32, frozen", "float32", "float32", FROZEN),
    ("SavedModel bfloat16", "bfloat16", "bfloat16", {}),
    ("SavedModel bfloat16, frozen", "bfloat16", "bfloat16", FROZEN),
    (BASELINE, "model.onnx", "float32", {}),
    ("OpenVINO float32", "openvino", "float32", {}),
    ("OpenVINO bfloat16", "openvino", "bfloat16", {}),
)


def write_exports(variant, folder, image_size):
    """Writes every export of a variant with random weights, also in the head, which starts at zero."""
    model = model_of(Case("forward", variant, 1, image_size=image_size))
    head = model.get_layer("head").kernel
    head.assign(np.random.default_rng(0).normal(0, 0.05, head.shape))
    for precision in ("float32", "bfloat16"):
        keras_mixer.export_saved_model(model, folder / precision, precision=precision)
    write_onnx(Predictor.of(model), folder / "model.onnx")
    write_openvino(Predictor.of(model), folder / "openvino")


def row(case, in_flight, name, seconds):
    """The results of one contestant: latencies in ms, and images per second of all requests together."""
    median, high = np.quantile(seconds, [0.5, 0.99]) * 1000
    latencies = {"fastest_ms": min(seconds) * 1000, "p50_ms": float(median), "p99_ms": float(high)}
    speed = in_flight * case["batch_size"] / float(np.mean(seconds))
    found = {**case, "in_flight": in_flight, "contestant": name, **latencies, "images_per_second": speed}
    return found | {"calls": len(seconds)}


def relative(rows):
    """The same rows with `of_baseline`: images per second relative to those of the baseline."""
    speeds = {one["contestant"]: one["images_per_second"] for one in rows}
    baseline = speeds.get(BASELINE, float("nan"))
    return [one | {"of_baseline": one["images_per_second"] / baseline} for one in rows]


def measured(options):
    """Yields the rows of each case."""
    for variant in options.variants:
        with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as running:
            write_exports(variant, Path(name), options.image_size)
            requests = {}
            for label, export, precision, environment in CONTESTANTS:
                contestant = Contestant(label, sys.executable, "serving_peer.py", environment=environment)
                own = {"path": str(Path(name) / export), "precision": precision}
                requests[running.enter_context(contestant)] = own
            for batch_size in options.batch_sizes:
                case = {"variant": variant, "batch_size": batch_size, "image_size": options.image_size}
                own = {contestant: case | request for contestant, request in requests.items()}
                print(f"{variant}, batch {batch_size}")
                for in_flight in options.in_flight:
                    how = {"in_flight": in_flight, "fewest": 1}
                    times = in_turn(requests, own.get, options.seconds, options.rounds, **how)
                    yield relative([row(case, in_flight, label, calls.seconds) for label, calls in times.items()])


def main():
    """Runs all cases and prints one row per contestant."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["S/32", "B/16"])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--in-flight", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=6.0, help="per case and contestant")
    parser.add_argument("--rounds", type=int, default=6, help="turns of each contestant per case")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--output", type=Path, help="JSON file; must not exist")
    options = parser.parse_args()
    record(measured(options), options.output, [("serving", sys.executable, "serving_peer.py")])


if __name__ == "__main__":
    main()

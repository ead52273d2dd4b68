"""Contestant: a LiteRT file of this package's model on two threads; the argument is the quantization."""

import sys
import tempfile
from pathlib import Path

import numpy as np
from protocol import serve

from keras_mixer.export.runtimes import open_interpreter
from keras_mixer.export.tflite import export_tflite
from keras_mixer.inspect.speed import Case, model_of

THREADS = 2


def _prepare(case):
    if case["kind"] != "forward" or case["precision"] != "float32":
        raise ValueError(f"unsupported case {case['kind']!r} in {case['precision']}")
    quantization = None if sys.argv[1] == "float32" else sys.argv[1]
    shape = (case["batch_size"], case["image_size"], case["image_size"], 3)
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        export_tflite(
            model_of(Case(**case)),
            path,
            quantization=quantization,
            representative_images=images if quantization == "int8" else None,
            batch_size=case["batch_size"],
        )
        interpreter, _ = open_interpreter(path, THREADS)
    runner = interpreter.get_signature_runner("serving_default")
    images = images.astype(runner.get_input_details()["image"]["dtype"])
    return lambda: runner(image=images)["probabilities"]


serve(_prepare)

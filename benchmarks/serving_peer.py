"""Contestant of `serving.py`: one export in its own runtime, called by several threads at once."""

import threading
from pathlib import Path

import numpy as np
from protocol import serve
from speed import session_of


def _onnx_runtime(path):
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"image": images})[0]


def _openvino(path, precision):
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bfloat16" else "f32"}
    compiled = openvino.Core().compile_model(str(path / "model.xml"), "CPU", hint)
    own = threading.local()  # a request belongs to one thread

    def run(images):
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return own.request.infer({"image": images})["probabilities"]

    return run


loaded = {}  # the export stays loaded for all batch sizes


def _prepare(case):
    path = Path(case["path"])
    if path not in loaded:
        if path.suffix == ".onnx":
            loaded[path] = _onnx_runtime(path)
        else:
            is_openvino = (path / "model.xml").is_file()
            loaded[path] = _openvino(path, case["precision"]) if is_openvino else session_of(path)
    run, size = loaded[path], case["image_size"]
    images = np.random.default_rng(0).integers(0, 256, (case["batch_size"], size, size, 3)).astype(np.float32)
    return lambda: run(images)


serve(_prepare)

"""Writes exports on TensorFlow, in a child process if this one runs on another Keras backend."""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_mixer.export.predictor import Predictor, Unsupported

PACKAGE_PARENT = Path(__file__).parents[2]
MODEL, CALL, ARRAYS, ERROR = "model.keras", "call.json", "arrays.npz", "error.json"
ERRORS = {kind.__name__: kind for kind in (Unsupported, ValueError, OSError)}  # the special one first


def write_on_tensorflow(writer, predictor, target, **options):
    """Calls `writer(predictor, target, **options)` on the TensorFlow backend.

    On another backend the model is passed as a `.keras` file to a child process with `KERAS_BACKEND=tensorflow`, which
    uses no accelerator because this process may occupy its memory.

    Args:
        writer: a top-level function of a module of this package.
        predictor: the `Predictor` of the Keras model to export.
        target: the path that the function writes.
        **options: its other arguments: strings, numbers, None and arrays.

    Raises:
        ValueError, OSError: raised by the function.
        RuntimeError: the child process died; contains the end of its output.
    """
    if keras.backend.backend() == "tensorflow":
        writer(predictor, target, **options)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        predictor.model.save(folder / MODEL)
        arrays: dict[str, Any] = {key: value for key, value in options.items() if isinstance(value, np.ndarray)}
        np.savez(folder / ARRAYS, **arrays)
        call = {
            "writer": [writer.__module__, writer.__name__],
            "class_names": predictor.description.class_names,
            "evaluation_crop": predictor.description.evaluation_crop,
            "target": str(Path(target).resolve()),
            "options": {key: value for key, value in options.items() if key not in arrays},
        }
        (folder / CALL).write_text(json.dumps(call), encoding="utf-8")
        paths = [str(PACKAGE_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {
            "KERAS_BACKEND": "tensorflow",
            "CUDA_VISIBLE_DEVICES": "-1",
            "PYTHONPATH": os.pathsep.join(paths),
        }
        command = [sys.executable, "-m", "keras_mixer.export.tensorflow_process", name]
        child = subprocess.run(command, env=environment, capture_output=True, text=True)
        if (folder / ERROR).is_file():
            kind, message = json.loads((folder / ERROR).read_text(encoding="utf-8"))
            raise ERRORS[kind](message)
        if child.returncode:
            raise RuntimeError(f"The export process ended with status {child.returncode}:\n{child.stderr[-2000:]}")


def _run(folder):
    """Runs in the child process."""
    call = json.loads((folder / CALL).read_text(encoding="utf-8"))
    module, name = call["writer"]
    with np.load(folder / ARRAYS, allow_pickle=False) as arrays:
        options = call["options"] | dict(arrays)
    try:
        model = keras.saving.load_model(folder / MODEL, safe_mode=True)
        predictor = Predictor.of(model, call["class_names"], call["evaluation_crop"])
        getattr(importlib.import_module(module), name)(predictor, Path(call["target"]), **options)
    except tuple(ERRORS.values()) as error:
        kind = next(name for name, kind in ERRORS.items() if isinstance(error, kind))
        (folder / ERROR).write_text(json.dumps([kind, str(error)]), encoding="utf-8")


if __name__ == "__main__":
    _run(Path(sys.argv[1]))

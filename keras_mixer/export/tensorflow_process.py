"""Exports are written by TensorFlow; a model of another Keras backend is handed to a process of its own for that."""

import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import keras

from keras_mixer.export.classifier import Classifier

PACKAGE_PARENT = Path(__file__).parents[2]
MODEL, CALL, ERROR = "model.keras", "call.pickle", "error.pickle"


def write_on_tensorflow(writer, classifier, target, **options):
    """Calls `writer(classifier, target, **options)` on the TensorFlow backend.

    Where this process runs on TensorFlow it is called here; else the model travels as a `.keras` file to a child
    process with `KERAS_BACKEND=tensorflow`, which uses no accelerator (this process may have taken its memory).

    Args:
        writer: a function at the top of a module of this package.
        classifier: the float32 `Classifier` to export.
        target: what the function writes.
        **options: its other arguments; they must be picklable.

    Raises:
        ValueError, OSError: what the function raised.
        RuntimeError: the child process died; carries the end of what it printed.
    """
    if keras.backend.backend() == "tensorflow":
        writer(classifier, target, **options)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        classifier.model.save(folder / MODEL)
        call = (writer, classifier.class_names, classifier.evaluation_crop, Path(target).resolve(), options)
        (folder / CALL).write_bytes(pickle.dumps(call))
        paths = [str(PACKAGE_PARENT), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {
            "KERAS_BACKEND": "tensorflow",
            "CUDA_VISIBLE_DEVICES": "-1",
            "PYTHONPATH": os.pathsep.join(paths),
        }
        command = [sys.executable, "-m", "keras_mixer.export.tensorflow_process", name]
        child = subprocess.run(command, env=environment, capture_output=True, text=True)
        if (folder / ERROR).is_file():
            raise pickle.loads((folder / ERROR).read_bytes())
        if child.returncode:
            raise RuntimeError(f"The export process ended with status {child.returncode}:\n{child.stderr[-2000:]}")


def _run(folder):
    """The child's side."""
    writer, class_names, evaluation_crop, target, options = pickle.loads((folder / CALL).read_bytes())
    try:
        model = keras.saving.load_model(folder / MODEL)
        writer(Classifier.of(model, class_names, evaluation_crop), target, **options)
    except (ValueError, OSError) as error:
        (folder / ERROR).write_bytes(pickle.dumps(type(error)(*error.args)))


if __name__ == "__main__":
    _run(Path(sys.argv[1]))

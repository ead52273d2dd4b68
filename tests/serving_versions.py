"""Checks that older TensorFlows, as inside TensorFlow Serving, answer exported SavedModels like the current TensorFlow.

    python tests/serving_versions.py --versions 2.19 2.20 --models digits b16

For each version it makes a temporary environment (1.4 GB). In each, and in this one, `serving_replay.py` loads every
SavedModel in a session and answers the same requests on every signature. The exit status is 1 if an answer differs by
more than 1e-5 from that of this environment. TensorFlow Serving itself is not run.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf
import tyro
from conftest import randomize
from image_files import encode, photographs

import keras_mixer
from keras_mixer.export.runtimes import SAVED_MODEL_DESCRIPTION

SHIPPED = Path(__file__).parents[1] / "saved_models" / "mixer_digits" / "1"
REPLAY = Path(__file__).with_name("serving_replay.py")
LARGEST_DIFFERENCE = 1e-5
Models = Literal["digits", "b16"]


def requests_for(path):
    """`{SIGNATURE/INPUT: array}`: a request for every signature of a SavedModel."""
    shape = json.loads((path / SAVED_MODEL_DESCRIPTION).read_text(encoding="utf-8"))["input_shape"]
    pixels = np.random.default_rng(1).integers(0, 256, (5, *shape), np.uint8)
    files = [encode(photograph, format) for format in ("JPEG", "PNG") for photograph in photographs()]
    requests = {}
    for name, signature in tf.saved_model.load(str(path)).signatures.items():
        ((key, tensor),) = signature.structured_input_signature[1].items()
        if tensor.dtype == tf.string:
            requests[f"{name}/{key}"] = np.array(files)
        else:
            requests[f"{name}/{key}"] = pixels.astype(tensor.dtype.name)
    return requests


def environment(version, folder):
    """Python of a new environment with one version of `tensorflow-cpu`."""
    python = folder / f"tensorflow-{version}" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
    subprocess.run([python, "-I", "-m", "pip", "install", "-q", f"tensorflow-cpu=={version}.*"], check=True)
    return python


def answers(command, folder):
    """What `serving_replay.py` answers: `{MODEL/SIGNATURE/OUTPUT: array}`."""
    target, quiet = folder / "answers.npz", os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
    subprocess.run([*command, REPLAY, folder, target], env=quiet, check=True)
    return dict(np.load(target))


def difference(ours, theirs):
    """The largest difference of numbers; infinite where anything else differs."""
    if ours.dtype.kind != "f":
        return 0.0 if np.array_equal(ours, theirs) else np.inf
    return float(np.abs(ours - theirs).max())


def main(versions: tuple[str, ...] = ("2.19", "2.20"), models: tuple[Models, ...] = ("digits", "b16")):
    """Prints a line for each output of each model and signature; whether all is well.

    Args:
        versions: of TensorFlow, MAJOR.MINOR.
        models: the shipped model of digits, and B/16 with random weights.
    """
    passed = True
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        paths = {"digits": SHIPPED, "b16": temporary / "b16"}
        if "b16" in models:
            b16 = randomize(keras_mixer.MixerB16(classes=10), np.random.default_rng(0))
            paths["b16"] = keras_mixer.export_saved_model(b16, paths["b16"])
        (temporary / "models.json").write_text(json.dumps({model: str(paths[model]) for model in models}))
        for model in models:
            np.savez(temporary / f"{model}.npz", **requests_for(paths[model]))
        expected = answers([sys.executable], temporary)
        for version in versions:
            found = answers([environment(version, temporary), "-I"], temporary)
            for output, ours in expected.items():
                largest = difference(ours, found[output])
                passed &= largest <= LARGEST_DIFFERENCE  # NaN fails
                print(f"{version:8}{output:40}{largest:.1e}", flush=True)
    return passed


if __name__ == "__main__":
    raise SystemExit(0 if tyro.cli(main) else 1)

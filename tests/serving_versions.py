"""Checks that older TensorFlows, as inside TensorFlow Serving, answer exported SavedModels like the current TensorFlow.

    python tests/serving_versions.py --versions 2.19 2.20 --models digits b16 others

For each version it makes an environment (1.4 GB; `--folder` keeps it for the next run). In each, and in this one,
`serving_replay.py` loads every SavedModel in a session and with `tf.saved_model.load`, and answers the same requests on
every signature. The exit status is 1 if an answer differs by more than 1e-5 from that of this environment, or if an
image that cannot be decoded is not named by its index. TensorFlow Serving itself is not run.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Literal

import numpy as np
import tensorflow as tf
import tyro
from image_files import encode, photographs

import keras_mixer
from keras_mixer.export.runtimes import SAVED_MODEL_DESCRIPTION

SHIPPED = Path(__file__).parents[1] / "saved_models" / "mixer_digits" / "1"
REPLAY = Path(__file__).with_name("serving_replay.py")
LARGEST_DIFFERENCE = 1e-5
Models = Literal["digits", "b16", "others"]


def exported(wanted, folder):
    """`{name: folder of a SavedModel}`."""
    digits = vars(keras_mixer.RECIPES["digits"].architecture()) | {"input_shape": (16, 16, 3), "classes": 10}
    sizes = {"patch_size": 4, "num_blocks": 2, "hidden_dim": 32, "tokens_mlp_dim": 16, "channels_mlp_dim": 64}
    sizes |= {"input_shape": (16, 24, 3), "classes": 10}
    options = {
        "digits": {"digits, random weights": digits},
        "b16": {"B/16, random weights": vars(keras_mixer.VARIANTS["B/16"])},
        "others": {
            "grey": sizes | {"input_shape": (16, 16, 1)},
            "sigmoid": sizes | {"include_preprocessing": False, "classifier_activation": "sigmoid"},
            "logits": sizes | {"classifier_activation": None},
            "headless": sizes | {"include_top": False, "include_preprocessing": False},
        },
    }
    models = {name: keras_mixer.Mixer(**given) for kind in wanted for name, given in options[kind].items()}
    found = {"digits, shipped": SHIPPED} if "digits" in wanted else {}
    rng = np.random.default_rng(0)
    for number, (name, model) in enumerate(models.items()):
        for weight in model.weights:  # a new head is zero
            scale = np.prod(weight.shape[:-1]) ** -0.5 if weight.path.endswith("kernel") else 0.5
            weight.assign(rng.normal(1.0 if weight.path.endswith("gamma") else 0.0, scale, weight.shape))
        crop = "resize-crop" if name.startswith("digits") else "resmall-crop"
        found[name] = keras_mixer.export_saved_model(model, folder / str(number), evaluation_crop=crop)
    return found


def requests_for(model):
    """`{SIGNATURE/KIND/INPUT: array}`: requests for every signature of a SavedModel."""
    shape = json.loads((model / SAVED_MODEL_DESCRIPTION).read_text(encoding="utf-8"))["input_shape"]
    pixels = np.random.default_rng(1).integers(0, 256, (5, *shape), np.uint8)
    files = [encode(photograph, format) for format in ("JPEG", "PNG") for photograph in photographs()]
    requests = {}
    for name, signature in tf.saved_model.load(str(model)).signatures.items():
        ((key, tensor),) = signature.structured_input_signature[1].items()
        if tensor.dtype == tf.string:
            requests[f"{name}/images/{key}"] = np.array(files)
            requests[f"{name}/undecodable/{key}"] = np.array([files[0], files[1][:300], files[2]])
        else:
            requests[f"{name}/pixels/{key}"] = pixels.astype(tensor.dtype.name)
    return requests


def environment(version, folder):
    """Python of an environment with one version of `tensorflow-cpu`, made where it is not there yet."""
    target = folder / f"tensorflow-{version}"
    python = target / "bin" / "python"
    if not (target / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", target], check=True)
        subprocess.run([python, "-I", "-m", "pip", "install", "-q", f"tensorflow-cpu=={version}.*"], check=True)
        (target / "complete").touch()
    return python


def answers(command, folder):
    """What `serving_replay.py` answers: `{NUMBER/LOADER/SIGNATURE/KIND/OUTPUT: array}` and the version."""
    target = folder / f"{len(list(folder.iterdir()))}.answers.npz"
    quiet = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
    child = subprocess.run([*command, REPLAY, folder, target], env=quiet, stderr=subprocess.PIPE, text=True)
    if child.returncode:
        raise SystemExit(f"{command[0]} failed:\n{child.stderr[-3000:]}")
    with np.load(target) as arrays:
        return dict(arrays)


def difference(name, ours, theirs):
    """Largest difference of a number; infinite where anything else differs, or an error does not name the image."""
    if name.endswith("/undecodable/error"):
        return 0.0 if "their indices in the batch:] [1]" in str(theirs) else np.inf
    if ours.dtype.kind != "f":
        return 0.0 if np.array_equal(ours, theirs) else np.inf
    largest = float(np.abs(ours - theirs).max())
    return largest if np.isfinite(largest) else np.inf


def main(
    versions: tuple[str, ...] = ("2.19", "2.20"),
    models: tuple[Models, ...] = ("digits", "b16", "others"),
    folder: Path | None = None,
):
    """Prints a line for each model, loader, signature and kind of request; whether all is well.

    Args:
        versions: of TensorFlow, MAJOR.MINOR.
        models: those to export.
        folder: where environments are made and kept; by default they are removed.
    """
    passed = True
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        paths = exported(models, temporary / "models")
        (temporary / "requests").mkdir()
        (temporary / "requests" / "models.json").write_text(json.dumps(list(map(str, paths.values()))))
        for number, path in enumerate(paths.values()):
            np.savez(temporary / "requests" / f"{number}.npz", **requests_for(path))
        expected = answers([sys.executable], temporary / "requests")
        for version in versions:
            found = answers([environment(version, folder or temporary), "-I"], temporary / "requests")
            installed = found.pop("version")
            passed &= found.keys() == expected.keys() - {"version"}
            rows = defaultdict(float)
            for key, theirs in found.items():
                row = key.rpartition("/")[0]
                rows[row] = max(rows[row], difference(key, expected.get(key, theirs), theirs))
            for row, largest in rows.items():
                number, loader, request = row.split("/", 2)
                well = largest <= LARGEST_DIFFERENCE
                passed &= well
                result = f"{largest:.1e}{'' if well else ' FAILED'}"
                print(f"{installed!s:9}{list(paths)[int(number)]:23}{loader:12}{request:27}{result}", flush=True)
    return passed


if __name__ == "__main__":
    raise SystemExit(0 if tyro.cli(main) else 1)

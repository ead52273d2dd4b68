"""Checks that older TensorFlows, as inside TensorFlow Serving, answer exported SavedModels like the current TensorFlow.

    pip install --no-deps tensorflow-serving-api  # once, into this environment: it reads the records of requests
    python tests/serving_versions.py --versions 2.19 2.20 --models digits b16 others

For each version it makes an environment (1.4 GB; `--folder` keeps it for the next run). In each, and in this one,
`serving_replay.py` loads every SavedModel in a session and with `tf.saved_model.load`, and answers the same requests on
every signature, warm-up records included. The exit status is 1 if an answer differs by more than 1e-5 from that of this
environment, or if an image that cannot be decoded is not named by its index. TensorFlow Serving itself is not run.
"""

import argparse
import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import tensorflow as tf
from image_files import encode, photographs

import keras_mixer
from keras_mixer.export.runtimes import SAVED_MODEL_DESCRIPTION
from keras_mixer.export.warmup import REQUESTS, write_warmup_requests

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "saved_models" / "mixer_digits" / "1"
REPLAY = Path(__file__).with_name("serving_replay.py")
VERSIONS = ["2.19", "2.20"]
LARGEST_DIFFERENCE = 1e-5
LOADERS = ("session", "tf.saved_model.load")


def digits(folder):
    model = keras_mixer.Mixer(
        **dataclasses.asdict(keras_mixer.RECIPES["digits"].architecture()), input_shape=(16, 16, 3), classes=10
    )
    return {"digits, shipped": SHIPPED, "digits, random weights": export(model, folder / "digits", "resize-crop")}


def b16(folder):
    return {"B/16, random weights": export(keras_mixer.MixerB16(), folder / "b16", "resmall-crop")}


def others(folder):
    sizes = {"patch_size": 4, "num_blocks": 2, "hidden_dim": 32, "tokens_mlp_dim": 16, "channels_mlp_dim": 64}
    grey = keras_mixer.Mixer(**sizes, input_shape=(16, 16, 1), classes=10)
    sigmoid = keras_mixer.Mixer(
        **sizes, input_shape=(16, 24, 3), classes=10, include_preprocessing=False, classifier_activation="sigmoid"
    )
    logits = keras_mixer.Mixer(**sizes, input_shape=(16, 16, 3), classes=10, classifier_activation=None)
    headless = keras_mixer.Mixer(**sizes, input_shape=(16, 16, 3), include_top=False, include_preprocessing=False)
    models = {"grey": grey, "sigmoid": sigmoid, "logits": logits, "headless": headless}
    return {name: export(model, folder / "others" / name, "resmall-crop") for name, model in models.items()}


MODELS = {"digits": digits, "b16": b16, "others": others}


def export(model, folder, crop):
    """A SavedModel with weights that matter everywhere; a new head is zero."""
    rng = np.random.default_rng(0)
    for weight in model.weights:
        scale = np.prod(weight.shape[:-1]) ** -0.5 if weight.path.endswith("kernel") else 0.5
        weight.assign(rng.normal(1.0 if weight.path.endswith("gamma") else 0.0, scale, weight.shape))
    return keras_mixer.export_saved_model(model, folder, evaluation_crop=crop)


def write_requests(model, folder):
    """`{kind: file}`: records of requests for every signature of a SavedModel."""
    shape = json.loads((model / SAVED_MODEL_DESCRIPTION).read_text(encoding="utf-8"))["input_shape"]
    pixels = np.random.default_rng(1).integers(0, 256, (5, *shape), np.uint8)
    images = {format: [encode(photograph, format) for photograph in photographs()] for format in ("JPEG", "PNG")}
    files = [*images["JPEG"], *images["PNG"]]
    inputs = {}
    for name, signature in tf.saved_model.load(str(model)).signatures.items():
        ((key, tensor),) = signature.structured_input_signature[1].items()
        inputs[name] = {key: np.array(files, object) if tensor.dtype == tf.string else pixels.astype(tensor.dtype.name)}
    kinds = {"requests": inputs}
    if "image_bytes" in inputs:
        broken = [files[0], files[1][:300], files[2]]
        kinds["undecodable"] = {"image_bytes": {"image_bytes": np.array(broken, object)}}
    folder.mkdir()
    for kind, signatures in kinds.items():
        write_warmup_requests(folder / kind, "model", signatures)
    return {"warm-up": str(model / REQUESTS)} | {kind: str(folder / kind) for kind in kinds}


def environment(version, folder):
    """Python of an environment with one version of `tensorflow-cpu`, made where it is not there yet."""
    target = folder / f"tensorflow-{version}"
    python = target / "bin" / "python"
    if not (target / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", target], check=True)
        install = [python, "-I", "-m", "pip", "install", "-q"]
        subprocess.run([*install, f"tensorflow-cpu=={version}.*"], check=True)
        subprocess.run([*install, "--no-deps", f"tensorflow-serving-api=={version}.*"], check=True)
        (target / "complete").touch()
    return python


def answers(command, calls, folder):
    """Runs `serving_replay.py` and returns the folder with what it wrote."""
    folder.mkdir()
    (folder / "calls.json").write_text(json.dumps(calls), encoding="utf-8")
    child = subprocess.run(
        [*command, REPLAY, folder], env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}, stderr=subprocess.PIPE, text=True
    )
    if child.returncode:
        raise SystemExit(f"{command[0]} failed:\n{child.stderr[-3000:]}")
    return folder


@dataclasses.dataclass
class Row:
    """How one signature, in one loader of one version, compares with the expected answers.

    Attributes:
        difference: largest difference of a number; infinite where classes or labels differ.
        warm_ups: warm-up records answered; there is one for each signature.
        errors: answers that are errors and should not be, or the other way round.
        notes: errors as expected.
    """

    difference: float = 0.0
    warm_ups: int = 0
    errors: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    @property
    def passed(self):
        return self.difference <= LARGEST_DIFFERENCE and self.warm_ups == 1 and not self.errors


def compare(rows, kind, ours, theirs):
    """Adds the answers to one file of records to the rows of their signatures."""
    for signature, records in theirs.items():
        row = rows[signature]
        for number, outputs in records.items():
            error = str(outputs.get("error", ""))
            if kind == "undecodable" and "their indices in the batch:] [1]" in error:
                row.notes.append("undecodable image named")
            elif kind == "undecodable" or error:
                row.errors.append(f"{kind}: {error[:500] or 'answered'}")
            else:
                row.difference = max(row.difference, difference(ours[signature][number], outputs))
                row.warm_ups += kind == "warm-up"


def difference(ours, theirs):
    """Largest difference of any output; infinite where one that is not a float differs."""
    same = all(np.array_equal(ours[name], theirs[name]) for name in ours if ours[name].dtype.kind != "f")
    largest = max(float(np.abs(ours[name] - theirs[name]).max()) for name in ours if ours[name].dtype.kind == "f")
    return largest if same and np.isfinite(largest) else np.inf


def read_answers(file):
    """`{signature: {number: {output: array}}}` of what `serving_replay.py` wrote."""
    found = defaultdict(lambda: defaultdict(dict))
    with np.load(file) as arrays:
        for key, array in arrays.items():
            number, signature, output = key.split("/")
            found[signature][number][output] = array
    return found


def show(version, calls, expected, folder):
    """Prints a row for each signature and loader; whether all is well."""
    passed = True
    installed = (folder / "version.txt").read_text(encoding="utf-8")
    for (number, (model, call)), loader in itertools.product(enumerate(calls.items()), LOADERS):
        rows = defaultdict(Row)
        for kind in call["records"]:
            ours = read_answers(expected / f"{number}-{LOADERS[-1]}-{kind}.npz")
            theirs = read_answers(folder / f"{number}-{loader}-{kind}.npz")
            compare(rows, kind, ours, theirs)
        for signature, row in rows.items():
            passed &= row.passed
            notes = ", ".join([*row.notes, *row.errors, *([] if row.passed else ["FAILED"])])
            shown = f"{row.difference:<12.1e}{row.warm_ups:<9}{notes}"
            print(f"{installed:12}{model:24}{signature:17}{loader:21}{shown}", flush=True)
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", nargs="+", default=VERSIONS, metavar="MAJOR.MINOR")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--folder", type=Path, help="where environments are made and kept; else they are removed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        temporary = Path(name)
        models = {key: path for model in options.models for key, path in MODELS[model](temporary).items()}
        requests = [write_requests(path, temporary / f"requests-{i}") for i, path in enumerate(models.values())]
        calls = [
            {"model": str(path), "records": records} for path, records in zip(models.values(), requests, strict=True)
        ]
        expected = answers([sys.executable], calls, temporary / "current")
        passed = True
        print(f"{'TensorFlow':12}{'model':24}{'signature':17}{'loader':21}{'difference':12}warm-up")
        for version in options.versions:
            folder = answers([environment(version, options.folder or temporary), "-I"], calls, temporary / version)
            passed &= show(version, dict(zip(models, calls, strict=True)), expected, folder)
    return 0 if passed else 1


if __name__ == "__main__":
    raise SystemExit(main())

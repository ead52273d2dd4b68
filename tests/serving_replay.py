"""Answers requests from SavedModels in a session, fed and read by the names of tensors, as TensorFlow Serving does.

    python -I tests/serving_replay.py FOLDER ANSWERS

Run by `serving_versions.py` in any environment with TensorFlow; imports nothing of this package. `FOLDER/models.json`
has the SavedModels by name, `FOLDER/NAME.npz` the requests of one as arrays `SIGNATURE/INPUT`; the answers become
arrays `NAME/SIGNATURE/OUTPUT` of the file ANSWERS.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


def main(folder, target):
    answers = {}
    for model, path in json.loads((folder / "models.json").read_text(encoding="utf-8")).items():
        session = tf.compat.v1.Session(graph=tf.Graph())
        with session.graph.as_default(), np.load(folder / f"{model}.npz") as requests:
            signatures = tf.compat.v1.saved_model.loader.load(session, ["serve"], path).signature_def
            for request, array in requests.items():
                signature, name = request.split("/")
                fed = {signatures[signature].inputs[name].name: array}
                read = {name: output.name for name, output in signatures[signature].outputs.items()}
                for name, output in session.run(read, fed).items():
                    answers[f"{model}/{signature}/{name}"] = output.astype("S") if output.dtype == object else output
    np.savez(target, **answers)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

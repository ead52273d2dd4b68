"""Answers requests from SavedModels in a session, as TensorFlow Serving does, and as Python programs do.

    python -I tests/serving_replay.py FOLDER ANSWERS

Run by `serving_versions.py` in any environment with TensorFlow; imports nothing of this package. `FOLDER/models.json`
lists the SavedModels. The requests of model 0 are the arrays `SIGNATURE/KIND/INPUT` of `FOLDER/0.npz`; the answers
become arrays `0/LOADER/SIGNATURE/KIND/OUTPUT` of the file ANSWERS, with the message of a request that fails as `error`.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf


def in_session(path):
    """The way of TensorFlow Serving: a session, fed and read by the names of tensors."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        signatures = tf.compat.v1.saved_model.loader.load(session, ["serve"], path).signature_def

    def answer(signature, name, array):
        inputs, outputs = signatures[signature].inputs, signatures[signature].outputs
        return session.run({name: output.name for name, output in outputs.items()}, {inputs[name].name: array})

    return answer


def as_object(path):
    """The way of Python programs: `tf.saved_model.load`."""
    loaded = tf.saved_model.load(path)

    def answer(signature, name, array):
        outputs = loaded.signatures[signature](**{name: tf.constant(array)})
        return {name: output.numpy() for name, output in outputs.items()}

    return answer


def main(folder, target):
    answers = {"version": np.array(tf.__version__)}
    for number, path in enumerate(json.loads((folder / "models.json").read_text(encoding="utf-8"))):
        for loader in (in_session, as_object):
            answer = loader(path)
            with np.load(folder / f"{number}.npz") as requests:
                for request, array in requests.items():
                    signature, _, name = request.split("/")
                    try:
                        outputs = answer(signature, name, array)
                    except tf.errors.InvalidArgumentError as error:
                        outputs = {"error": np.array(str(error))}
                    for name, output in outputs.items():
                        key = f"{number}/{loader.__name__}/{request.rpartition('/')[0]}/{name}"
                        answers[key] = np.array(output, "S") if output.dtype == object else output
    np.savez(target, **answers)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

"""Answers records of requests from a SavedModel, as TensorFlow Serving does: run by `serving_versions.py`.

    python -I tests/serving_replay.py FOLDER

In any environment with TensorFlow and tensorflow-serving-api; nothing of this package is imported. `FOLDER/calls.json`
lists what to load and which files of `PredictionLog` records to answer; the answers are written next to it.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2


def session_loader(path):
    """The way of TensorFlow Serving: a session, fed and read by the names of tensors."""
    session = tf.compat.v1.Session(graph=tf.Graph())
    with session.graph.as_default():
        signatures = tf.compat.v1.saved_model.loader.load(session, ["serve"], path).signature_def

    def answer(signature, inputs):
        definition = signatures[signature]
        feed = {definition.inputs[name].name: array for name, array in inputs.items()}
        return session.run({name: output.name for name, output in definition.outputs.items()}, feed)

    return answer


def object_loader(path):
    """The way of Python programs: `tf.saved_model.load`."""
    loaded = tf.saved_model.load(path)

    def answer(signature, inputs):
        tensors = {name: tf.constant(array) for name, array in inputs.items()}
        return {name: output.numpy() for name, output in loaded.signatures[signature](**tensors).items()}

    return answer


LOADERS = {"session": session_loader, "tf.saved_model.load": object_loader}


def replay(answer, records):
    """`{"NUMBER/SIGNATURE/OUTPUT": array}` of a file of records; the message in place of an output where one fails."""
    found = {}
    for number, record in enumerate(tf.data.TFRecordDataset(records).as_numpy_iterator()):
        request = prediction_log_pb2.PredictionLog.FromString(record).predict_log.request
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        signature = request.model_spec.signature_name
        try:
            outputs = answer(signature, inputs)
        except tf.errors.InvalidArgumentError as error:
            outputs = {"error": np.array(str(error))}
        for name, output in outputs.items():
            text = output.dtype == object
            found[f"{number}/{signature}/{name}"] = np.array(output, "S") if text else output
    return found


def main(folder):
    for number, call in enumerate(json.loads((folder / "calls.json").read_text(encoding="utf-8"))):
        for loader, load in LOADERS.items():
            answer = load(call["model"])
            for name, records in call["records"].items():
                np.savez(folder / f"{number}-{loader}-{name}.npz", **replay(answer, records))
    (folder / "version.txt").write_text(tf.__version__, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

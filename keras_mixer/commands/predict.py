"""Classify image files with a model at hand or on a server: predict MODEL IMAGE..."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro

from keras_mixer.commands.terminal import parse, print_table
from keras_mixer.export.loading import load_predictor
from keras_mixer.serving.client import connect, predict_files
from keras_mixer.serving.protocol import RETRIES


def run(arguments):
    """Classify image files: predict MODEL IMAGE..."""
    parse(predict, "predict", arguments)


def predict(
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL IMAGE...")],
    server: str | None = None,
    top_k: int = 5,
    timeout: float = 30.0,
    retries: int = RETRIES,
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = False,
):
    """Classify image files.

    Args:
        paths: a run directory, a .keras file, a SavedModel, a .tflite or .onnx file or an OpenVINO folder, and then
            JPEG, PNG, GIF, BMP or WebP files. With --server, only the images.
        server: ask TensorFlow Serving: http://HOST:8501/v1/models/NAME or grpc://HOST:8500/NAME, with /versions/N at
            the end for one version.
        top_k: how many classes to show for each image.
        timeout: seconds until the server must have answered.
        retries: how often to ask again, each time after a longer pause, while the server is unavailable.
        json_output: print a JSON list instead of a table.
    """
    if len(paths) < (1 if server else 2):
        raise ValueError("Name a model and at least one image file; with --server, at least one image file.")
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}.")
    if server:
        client = connect(server, timeout, retries)
        try:
            predictions = predict_files(client, paths, top_k)
        finally:
            client.close()
    else:
        model, *images = paths
        predictor = load_predictor(model)
        predictions = [predictor.predict(image, top_k) for image in images]
    if json_output:
        print(json.dumps([dataclasses.asdict(prediction) for prediction in predictions], indent=2))
        return
    rows = [
        (prediction.image if rank == 0 else "", label, f"{probability:.2%}")
        for prediction in predictions
        for rank, (label, probability) in enumerate(zip(prediction.labels, prediction.probabilities, strict=True))
    ]
    print_table(("image", "class", "probability"), rows)

"""Classify image files: predict MODEL IMAGE..."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import tyro

from keras_mixer.commands.terminal import parse, print_table
from keras_mixer.serving.predictor import load_predictor


def run(arguments):
    """Classify image files: predict MODEL IMAGE..."""
    parse(predict, "predict", arguments)


def predict(
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    images: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE...")],
    top_k: int = 5,
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = False,
):
    """Classify image files.

    Args:
        model: a run directory, a .keras file, a SavedModel or a .tflite file.
        images: JPEG, PNG, GIF, BMP or WebP files.
        top_k: how many classes to show for each image.
        json_output: print a JSON list instead of a table.
    """
    if not images:
        raise ValueError("Name at least one image file.")
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, not {top_k}.")
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

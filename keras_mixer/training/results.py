"""The content of `results.json`."""

import contextlib
import importlib.metadata
import platform
from typing import Any

import keras

from keras_mixer.evaluation.accuracy import Evaluation
from keras_mixer.training.recipe import Recipe


def results_of(recipe: Recipe, evaluation: Evaluation, start_accuracy, parameters, seconds) -> dict[str, Any]:
    """The results of a run as plain data; `start_accuracy` and `seconds` are those of `fit`."""
    packages = ("keras-mixer", "keras", "numpy", "tensorflow", "tensorflow-cpu", "jax", "keras-cv")
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "recipe": recipe.name,
        "accuracy": evaluation.top1,
        "start_accuracy": start_accuracy,
        "top5": evaluation.top5,
        "loss": evaluation.loss,
        "test_images": evaluation.examples,
        "part": recipe.part(),
        "evaluation_crop": recipe.evaluation_crop,
        "image_size": list(recipe.input_shape()[:2]),
        "parameters": parameters,
        "seed": recipe.seed,
        "seconds": round(seconds, 1),
        "backend": keras.backend.backend(),
        "versions": versions,
    }

"""Measure a finished run on its test data: evaluate RUN."""

import json
from pathlib import Path
from typing import Annotated

import tyro

from keras_mixer.commands.terminal import parse, print_table
from keras_mixer.files import whole
from keras_mixer.serving.predictor import load_classifier
from keras_mixer.training.inputs import evaluate_source, load_recipe_source
from keras_mixer.training.recipes import resolve
from keras_mixer.training.run_directory import read_recipe


def run(arguments):
    """Measure a finished run on its test data: evaluate RUN."""
    parse(evaluate, "evaluate", arguments)


def evaluate(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    data: str | None = None,
    data_dir: str | None = None,
    test_split: str | None = None,
    skip_corrupt: bool = False,
):
    """Measure a finished run on its test data, or on other data with the same classes.

    Args:
        run: folder of a finished run.
        data: image folder or TensorFlow Datasets name; the run's own by default.
        data_dir: folder with prepared TensorFlow Datasets.
        test_split: which part; the run's own by default.
        skip_corrupt: leave image files out that cannot be decoded.
    """
    given = {"data": data, "data_dir": data_dir, "test_split": test_split}
    model = load_classifier(run)
    recipe = resolve(read_recipe(run), **{key: value for key, value in given.items() if value is not None})
    source = load_recipe_source(recipe, skip_corrupt)
    result = evaluate_source(model, source, recipe, progress=True)
    height, width, _ = recipe.input_shape()
    print_table(
        ("top-1", "top-5", "loss", "images", "crop", "input"),
        [
            (
                f"{result.top1:.2%}",
                f"{result.top5:.2%}",
                f"{result.loss:.4f}",
                str(result.examples),
                recipe.evaluation_crop,
                f"{height} x {width}",
            )
        ],
    )
    per_class = dict(zip(source.class_names, result.per_class().tolist(), strict=True))
    print_table(("class", "accuracy"), [(name, f"{share:.2%}") for name, share in per_class.items()])
    content = {
        "accuracy": result.top1,
        "top5": result.top5,
        "loss": result.loss,
        "test_images": result.examples,
        "data": source.name,
        "evaluation_crop": recipe.evaluation_crop,
        "per_class": {name: None if share != share else share for name, share in per_class.items()},
        "confusion": result.confusion.tolist(),
    }
    file = run / "evaluation.json"
    with whole(file) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"\nWritten to {file}.")

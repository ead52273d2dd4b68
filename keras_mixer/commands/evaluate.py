"""Measure a finished run on its test data: evaluate RUN."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from keras_mixer.commands.terminal import parse, print_table
from keras_mixer.export.loading import load_mixer
from keras_mixer.files import write_json
from keras_mixer.inspect.confusion import confusion_figure, mistakes
from keras_mixer.inspect.figures import write_figure
from keras_mixer.training.inputs import evaluate_source, load_recipe_source
from keras_mixer.training.recipes import resolve
from keras_mixer.training.run_directory import CHECKED_IMAGES, read_recipe

LARGEST_TABLE = 20  # classes up to which the confusion is printed as a table


def run(arguments):
    """Measure a finished run on its test data: evaluate RUN."""
    parse(evaluate, "evaluate", arguments)


def evaluate(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    data: str | None = None,
    data_dir: str | None = None,
    test_split: str | None = None,
    evaluation_crop: Literal["resize", "resize-crop", "resmall-crop"] | None = None,
    skip_corrupt: bool = False,
):
    """Measure a finished run on its test data, or on other data with the same classes.

    RUN/evaluation.json and RUN/confusion.png are written, in place of those of an earlier call.

    Args:
        run: folder of a finished run.
        data: image folder or TensorFlow Datasets name; the run's own by default.
        data_dir: folder with prepared TensorFlow Datasets.
        test_split: which part; the run's own by default.
        evaluation_crop: how images are brought to size; the run's own by default.
        skip_corrupt: leave image files out that cannot be decoded.
    """
    given = {"data": data, "data_dir": data_dir, "test_split": test_split, "evaluation_crop": evaluation_crop}
    model = load_mixer(run)
    recipe = resolve(read_recipe(run), **{key: value for key, value in given.items() if value is not None})
    memory = run / CHECKED_IMAGES if data is None else None
    source = load_recipe_source(recipe, skip_corrupt, memory=memory, remember=False)
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
    for remark in result.remarks():
        print(remark)
    per_class = dict(zip(source.class_names, result.per_class().tolist(), strict=True))
    print_table(("class", "accuracy"), [(name, f"{share:.2%}") for name, share in per_class.items()])
    _print_confusion(result.confusion, source.class_names)
    content = {
        "accuracy": result.top1,
        "top5": result.top5,
        "loss": result.loss if np.isfinite(result.loss) else None,  # JSON has no NaN
        "test_images": result.examples,
        "non_finite": result.non_finite,
        "constant": result.constant,
        "data": source.name,
        "evaluation_crop": recipe.evaluation_crop,
        "image_size": [height, width],
        "class_names": source.class_names,
        "per_class": {name: None if share != share else share for name, share in per_class.items()},
        "confusion": result.confusion.tolist(),
    }
    file = run / "evaluation.json"
    write_json(file, content)
    print(f"\nWritten to {file}.")
    try:
        figure = confusion_figure(result.confusion, source.class_names)
    except ValueError as error:  # without the extra the numbers are all there
        print(f"No picture of the confusion. {error}")
        return
    print(f"Written to {write_figure(figure, run / 'confusion.png')}.")


def _print_confusion(confusion, class_names):
    if len(class_names) <= LARGEST_TABLE:
        rows = [
            (name, *(str(count) if count else "." for count in row))
            for name, row in zip(class_names, confusion.tolist(), strict=True)
        ]
        print("\nConfusion: rows are labels, columns guesses.")
        print_table(("", *class_names), rows)
        return
    print("\nThe most frequent mistakes:")
    rows = [(*pair, str(images), f"{share:.1%}") for *pair, images, share in mistakes(confusion, class_names)]
    print_table(("label", "guess", "images", "of the label"), rows)

"""A self-contained HTML report on finished runs: accuracy, comparison, mistakes as images, tables, curves, weights."""

import base64
import dataclasses
import io
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_mixer.description import architecture_of
from keras_mixer.export.loading import load_model
from keras_mixer.export.parity import subsample
from keras_mixer.export.predictor import Predictor
from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.inspect.answers import Answers, Example, answers_of, examples_at
from keras_mixer.inspect.confusion import confusion_figure, mistakes
from keras_mixer.inspect.cost import exact_cost
from keras_mixer.inspect.figures import DOTS_PER_INCH
from keras_mixer.inspect.model_card import data_name
from keras_mixer.inspect.saliency import overlay
from keras_mixer.inspect.token_weights import (
    Frequency,
    frequency_against_random,
    stem_figure,
    unit_weights,
    weights_figure,
)
from keras_mixer.inspect.training_curves import curves
from keras_mixer.mixer_model import blocks_of
from keras_mixer.training.inputs import load_recipe_source
from keras_mixer.training.run_directory import CHECKED_IMAGES, read_metrics, read_recipe

TEMPLATE = Path(__file__).with_name("report.html.jinja")
MOST_BLOCKS = 3  # as in the paper
MOST_IMAGES = 10_000  # of the test images
EXAMPLES = 12  # mistakes, and as many right answers
MOST_CELLS = 20  # largest number of classes for which the confusion matrix is a table
LOSSLESS_SIDE = 64  # pixels; larger images are JPEG files in the page


@dataclasses.dataclass(frozen=True)
class TestImages:
    """What the model of a run answers on its test images.

    Attributes:
        answers: one entry per image.
        confident_mistakes: the wrong answers with the highest probability.
        unsure_right_answers: the right answers with the lowest probability.
        confusion: `(classes, classes)` image counts; rows are labels.
        total: number of test images; `answers` may cover fewer.
    """

    answers: Answers
    confident_mistakes: list[Example]
    unsure_right_answers: list[Example]
    confusion: np.ndarray
    total: int


@dataclasses.dataclass(frozen=True)
class Run:
    """The content of a run directory; None for a file that does not exist.

    Attributes:
        folder: as it was given.
        config: content of `config.json`.
        results: content of `results.json`.
        evaluation: content of `evaluation.json`, which `keras-mixer evaluate` writes.
        few_shot: content of `fewshot.json`, which `keras-mixer fewshot` writes.
        metrics: columns of `metrics.csv`.
        class_names: one per class.
        architecture: size of the model in words.
        parameters: number of parameters of the model.
        macs: multiply-accumulates per image.
        bytes: size of the model file.
        test: answers on the test images; None if these cannot be read.
        problem: why they cannot be read; empty if they can.
        frequencies: smoothness of the token-mixing weights of each block.
        weights: figure of the token-mixing weights.
        stem: figure of the stem filters.
    """

    folder: Path
    config: dict[str, Any]
    results: dict[str, Any]
    evaluation: dict[str, Any] | None
    few_shot: dict[str, Any] | None
    metrics: dict[str, list[float]]
    class_names: tuple[str, ...]
    architecture: str
    parameters: int
    macs: int
    bytes: int
    test: TestImages | None
    problem: str
    frequencies: list[Frequency]
    weights: Any
    stem: Any


def write_report(runs, output, images=MOST_IMAGES):
    """Writes the report.

    Args:
        runs: folders of finished runs.
        output: the `.html` file to write; must not exist.
        images: largest number of test images that each model classifies for the report, evenly spaced.

    Returns:
        The `Path` written.

    Raises:
        ValueError: there are no runs, a run is not finished, the file exists or does not end in .html, or a library
            of the extra `[plots]` is missing.
    """
    output = Path(output)
    if not runs:
        raise ValueError("Expected at least one finished run, got none.")
    if output.suffix != ".html":
        raise ValueError(f"Expected a path ending in .html, got {output}.")
    refuse_existing(output)
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise ValueError("Reports need jinja2: pip install 'keras-mixer[plots]'.") from error
    read = [read_run(folder, images) for folder in runs]
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"percent": _percent, "count": _count, "image": _image_url, "saliency": _saliency_url}
    metrics = [run.metrics for run in read]
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        runs=[_described(run, name) for run, name in zip(read, _names(read), strict=True)],
        settings=_differing_settings(read),
        curves=[
            (title, svg)
            for title, svg in [
                ("Accuracy over the training steps", curves(metrics, "accuracy", "accuracy")),
                ("Loss over the training steps", curves(metrics, "loss", "loss")),
            ]
            if svg
        ],
    )
    with atomic_write(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return output


def read_run(folder, images=MOST_IMAGES) -> Run:
    """Reads a finished run and classifies its test images, at most `images` of them.

    Raises:
        ValueError: the folder is not a finished run.
    """
    folder = Path(folder)
    if not (folder / "results.json").is_file() or not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a finished run: config.json and results.json are required.")
    predictor = Predictor.of(load_model(folder)).for_classes("to report on")
    model = predictor.model
    parameters, macs = exact_cost(model)
    blocks = range(len(blocks_of(model)))
    test, problem = None, ""
    try:
        test = _test_images(folder, predictor, images)
    except (ValueError, OSError) as error:  # the data may have moved; the rest of the report does not need them
        problem = str(error)
    return Run(
        folder=folder,
        config=_read(folder / "config.json"),
        results=_read(folder / "results.json"),
        evaluation=_read(folder / "evaluation.json"),
        few_shot=_read(folder / "fewshot.json"),
        metrics=read_metrics(folder / "metrics.csv"),
        class_names=predictor.description.class_names,
        architecture=architecture_of(model),
        parameters=parameters,
        macs=macs,
        bytes=(folder / "model.keras").stat().st_size,
        test=test,
        problem=problem,
        frequencies=[frequency_against_random(unit_weights(model, block)) for block in blocks],
        weights=weights_figure(model, blocks[:MOST_BLOCKS]),
        stem=stem_figure(model),
    )


def _test_images(folder, predictor, images):
    source = load_recipe_source(read_recipe(folder), memory=folder / CHECKED_IMAGES, remember=False)
    classes = len(predictor.description.class_names)
    if len(source.class_names) != classes:
        raise ValueError(f"Data {source.name!r} have {len(source.class_names)} classes, the model has {classes}.")
    split = subsample(source.test, images)
    answers = answers_of(predictor, split, progress=True)
    return TestImages(
        answers=answers,
        confident_mistakes=examples_at(predictor, split, answers, answers.confident_mistakes(EXAMPLES)),
        unsure_right_answers=examples_at(predictor, split, answers, answers.unsure_right_answers(EXAMPLES)),
        confusion=answers.confusion(classes),
        total=source.test.size,
    )


def _names(runs):
    """The name of each folder, or its path where two have the same name."""
    names = [run.folder.resolve().name for run in runs]
    return [name if Counter(names)[name] == 1 else str(run.folder) for name, run in zip(names, runs, strict=True)]


def _differing_settings(runs):
    """`(field, value in each run)` of the recipes, for every field that differs."""
    fields = dict.fromkeys(field for run in runs for field in run.config)
    rows = [(field, [run.config.get(field) for run in runs]) for field in fields if field != "name"]
    return [(field, values) for field, values in rows if any(value != values[0] for value in values)]


def _described(run, name):
    """The run as the template needs it: text, inline images, and tables."""
    accuracy, images = run.results["accuracy"], run.results["test_images"]
    return {
        "name": name,
        "config": {key: value for key, value in run.config.items() if value is not None},
        "data": data_name(run.config["data"]),
        "results": run.results,
        "standard_error": math.sqrt(accuracy * (1 - accuracy) / images),
        "few_shot": run.few_shot,
        "architecture": run.architecture,
        "classes": len(run.class_names),
        "parameters": run.parameters,
        "macs": run.macs,
        "bytes": run.bytes,
        "test": run.test,
        "problem": run.problem,
        "confusion": _confusion(run),
        "curves": [
            (title, svg)
            for title, svg in [
                ("Learning rate over the training steps", _curve(run, "learning_rate", "learning rate")),
                ("Speed over the training steps", _curve(run, "images_per_second", "images per second")),
            ]
            if svg
        ],
        "frequencies": run.frequencies,
        "weights": _figure_url(run.weights),
        "drawn_blocks": min(MOST_BLOCKS, len(run.frequencies)),
        "stem": _figure_url(run.stem),
    }


def _curve(run, column, label):
    return curves([run.metrics], column, label, validation=False)


def _confusion(run):
    """The confusion matrix of `keras-mixer evaluate` if there is one, else of the test images; None without either."""
    if run.evaluation:
        counts = np.array(run.evaluation["confusion"])
        names = tuple(run.evaluation.get("class_names") or run.evaluation["per_class"])
        data = run.evaluation["data"]
    elif run.test:
        counts, names, data = run.test.confusion, run.class_names, data_name(run.config["data"])
    else:
        return None
    images, predicted, right = counts.sum(1), counts.sum(0), np.diag(counts)
    fractions = counts / np.maximum(images[:, None], 1)
    precision, recall = (np.divide(right, total, out=np.full(len(names), np.nan), where=total > 0)
                         for total in (predicted, images))  # fmt: skip
    small = len(names) <= MOST_CELLS
    worst_first = np.argsort(np.nan_to_num(recall, nan=2.0), kind="stable")
    return {
        "names": names,
        "data": data,
        "images": int(counts.sum()),
        # Cells: image count, and a shade in percent; the square root makes rare mistakes visible.
        "rows": [
            (name, list(zip(row.tolist(), np.round(100 * shades).astype(int).tolist(), strict=True)))
            for name, row, shades in zip(names, counts, fractions**0.5, strict=True)
        ]
        if small
        else [],
        "figure": None if small else _figure_url(confusion_figure(counts, names)),
        "mistakes": mistakes(counts, names),
        "per_class": [(names[i], int(images[i]), float(precision[i]), float(recall[i])) for i in worst_first],
    }


def _percent(fraction, digits=2):
    return "-" if fraction is None or math.isnan(fraction) else f"{100 * fraction:.{digits}f}\N{NO-BREAK SPACE}%"


def _count(number):
    """Three digits and a unit, such as 12.6 G."""
    for factor, unit in ((1e9, "G"), (1e6, "M")):
        if number >= factor:
            return f"{number / factor:.3g}\N{NO-BREAK SPACE}{unit}"
    return f"{number:,}"


def _image_url(pixels):
    """`(H, W, 3) uint8` as a data URL."""
    if max(pixels.shape[:2]) <= LOSSLESS_SIDE:
        return _data_url(tf.io.encode_png(pixels).numpy(), "png")
    return _data_url(tf.io.encode_jpeg(pixels, quality=85).numpy(), "jpeg")


def _saliency_url(example):
    return _image_url(overlay(example.pixels, example.saliency))


def _figure_url(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH)
    return _data_url(buffer.getvalue(), "png")


def _data_url(content, kind):
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _read(file):
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

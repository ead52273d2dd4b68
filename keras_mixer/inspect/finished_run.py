"""Everything that a report shows of one finished run: its files, its model, and the answers on its test images."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from keras_mixer.anatomy import anatomy
from keras_mixer.data.image_files import naming_damaged_files
from keras_mixer.data.sources import with_classes_of
from keras_mixer.description import architecture_of
from keras_mixer.export.loading import load_model
from keras_mixer.export.parity import subsample
from keras_mixer.export.predictor import Predictor
from keras_mixer.inspect.answers import Answers, Example, answers_of, examples_at
from keras_mixer.inspect.cost import exact_cost
from keras_mixer.inspect.token_weights import (
    Frequency,
    frequency_against_random,
    stem_figure,
    unit_weights,
    weights_figure,
)
from keras_mixer.training.inputs import run_source
from keras_mixer.training.run_directory import read_metrics, read_recipe

MOST_BLOCKS = 3  # that are drawn, as in the paper
MOST_IMAGES = 10_000  # of the test images
EXAMPLES = 12  # mistakes, and as many right answers


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


def read_run(folder, images=MOST_IMAGES, skip_corrupt=False) -> Run:
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
    blocks = range(len(anatomy(model).blocks))
    test, problem = None, ""
    try:
        test = _test_images(folder, predictor, images, skip_corrupt)
    except (ValueError, OSError) as error:  # the data may have moved; the rest of the report does not need them
        problem = str(error)
        print(f"{folder}: {problem}", file=sys.stderr)
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


def _test_images(folder, predictor, images, skip_corrupt):
    names, crop = predictor.description.class_names, predictor.description.evaluation_crop
    source = with_classes_of(run_source(folder, read_recipe(folder), skip_corrupt=skip_corrupt), names)
    split = subsample(source.test, images)
    with naming_damaged_files(split, crop=crop):
        answers = answers_of(predictor, split, progress=True)
        return TestImages(
            answers=answers,
            confident_mistakes=examples_at(predictor, split, answers, answers.confident_mistakes(EXAMPLES)),
            unsure_right_answers=examples_at(predictor, split, answers, answers.unsure_right_answers(EXAMPLES)),
            confusion=answers.confusion(len(names)),
            total=source.test.size,
        )


def _read(file):
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

"""A self-contained HTML report on finished runs: accuracy, comparison, confident mistakes, confusion, classes."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from keras_mixer.anatomy import Anatomy
from keras_mixer.data.sources import data_name
from keras_mixer.evaluation.outputs import NO_GUESS, confusion_of, guesses, outputs_of
from keras_mixer.export.runtimes import load
from keras_mixer.export.web import described
from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.inspect.figures import confusion_figure, figure_url, image_url, mistakes
from keras_mixer.inspect.run_data import batches_of, source_for
from keras_mixer.inspect.saliency import overlay, saliency
from keras_mixer.storage import with_addresses
from keras_mixer.training.run import read_recipe, read_results

TEMPLATE = Path(__file__).with_name("report.html.jinja")
MOST_MISTAKES = 12  # that are shown


def write_report(runs, output, images=10_000, skip_corrupt=False):
    """Writes the report on folders of finished runs to a new `.html` file; returns its `Path`.

    Each model classifies at most `images` test images, from all over. ValueError if there are no runs, a run is not
    finished, or the file exists or does not end in .html.
    """
    from jinja2 import Environment, StrictUndefined

    output = Path(output)
    if not runs:
        raise ValueError("Expected at least one finished run, got none.")
    if output.suffix != ".html":
        raise ValueError(f"Expected a path ending in .html, got {output}.")
    refuse_existing(output)
    reports = [_report_on(Path(folder), images, skip_corrupt) for folder in runs]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "image": image_url}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(runs=reports, settings=_differing_settings([report["config"] for report in reports]))
    with atomic_write(output) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    return output


def _report_on(folder, images, skip_corrupt) -> dict[str, Any]:
    """What the template shows of one run."""
    results, recipe, predictor = read_results(folder), read_recipe(folder), load(folder)
    variant = Anatomy(predictor.model).variant()
    report: dict[str, Any] = {
        "name": _short(with_addresses(folder)),
        "config": dataclasses.asdict(recipe),
        "data": data_name(recipe.data),
        "results": results,
        "standard_error": math.sqrt(results["accuracy"] * (1 - results["accuracy"]) / results["test_images"]),
        "architecture": described(variant),
        "classes": len(predictor.class_names),
        "macs": variant.macs(predictor.input_shape, len(predictor.class_names)),
        "answers": None,
    }
    try:
        source, *_ = source_for(folder, predictor.class_names, {}, skip_corrupt=skip_corrupt)
        report["answers"] = read_answers(predictor, source.test.subsample(images)) | {"total": source.test.size}
    except (ValueError, OSError) as error:  # the data may have moved; the rest of the report does not need them
        report["problem"] = str(error)
        print(with_addresses(f"{folder}: {error}"), file=sys.stderr)
    return report


def read_answers(predictor, split) -> dict[str, Any]:
    """What the template shows of a model's answers on the images of a split."""
    names, crop, rows = predictor.class_names, predictor.facts.evaluation_crop, []
    with batches_of(predictor, split, crop=crop) as (batches,):
        for probabilities, labels in outputs_of(predictor.model, batches, "test images", progress=True):
            guessed, images = guesses(probabilities), np.arange(len(labels))
            rows.append((labels, guessed, probabilities[images, guessed], probabilities[images, labels]))
    labels, guessed, confidence, of_label = map(np.concatenate, zip(*rows, strict=True))
    wrong = np.flatnonzero((guessed != labels) & (guessed != NO_GUESS))
    surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:MOST_MISTAKES]
    chosen = np.isin(np.arange(split.size), surest)
    with batches_of(predictor, split.part(chosen), crop=crop) as (batches,):
        shown_images = [image for image, _ in batches.unbatch().as_numpy_iterator()]
    pixels = dict(zip(np.flatnonzero(chosen), shown_images, strict=True))
    shown = []
    for i in surest:
        name = _short(split.files[i].path) if split.files else f"test image {i}"
        mistake = {"name": name, "guess": names[guessed[i]], "label": names[labels[i]], "pixels": pixels[i]}
        mistake |= {"confidence": confidence[i], "of_label": of_label[i]}
        shown.append(mistake | {"overlay": overlay(pixels[i], saliency(predictor, pixels[i], guessed[i], labels[i]))})
    confusion = confusion_of(labels, guessed, len(names))
    images, predicted, right = confusion.sum(1), confusion.sum(0), np.diag(confusion)
    with np.errstate(invalid="ignore"):  # NaN for a class without images
        precision, recall = right / predicted, right / images
    worst_first = np.argsort(np.nan_to_num(recall, nan=2.0), kind="stable")
    return {
        "images": split.size,
        "errors": int(split.size - right.sum()),
        "mistakes": shown,
        "confusion": figure_url(confusion_figure(confusion, names)),
        "frequent": mistakes(confusion, names),
        "per_class": [(names[i], int(images[i]), float(precision[i]), float(recall[i])) for i in worst_first],
    }


def _short(path) -> str:
    """A file and its class, or a run and its folder: more of a path could name folders of one machine."""
    return "/".join(Path(path).absolute().parts[-2:])


def _differing_settings(configs):
    """`(field, value in each run)` of the recipes, for every field that differs."""
    rows = [(field, [config[field] for config in configs]) for field in configs[0] if field != "name"]
    return [(field, values) for field, values in rows if any(value != values[0] for value in values)]


def _percent(fraction, digits=2):
    return "-" if math.isnan(fraction) else f"{100 * fraction:.{digits}f}\N{NO-BREAK SPACE}%"

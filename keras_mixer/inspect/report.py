"""A self-contained HTML report on finished runs: accuracy, comparison, confident mistakes, confusion, classes."""

import dataclasses
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from keras_mixer.anatomy import Anatomy
from keras_mixer.data.batches import evaluation_batches
from keras_mixer.data.image_files import naming_damaged_files
from keras_mixer.data.sources import data_name
from keras_mixer.data.splits import subsample
from keras_mixer.evaluation.outputs import count_guesses, guesses
from keras_mixer.export.predictor import Predictor, load_model
from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.inspect.figures import confusion_figure, figure_url, image_url, mistakes
from keras_mixer.inspect.run_data import run_source, with_classes_of
from keras_mixer.inspect.saliency import overlay, saliency
from keras_mixer.storage import as_addresses
from keras_mixer.training.run import read_recipe, read_results

TEMPLATE = Path(__file__).with_name("report.html.jinja")
MOST_IMAGES = 10_000  # of the test images
MOST_MISTAKES = 12  # that are shown
BATCH_SIZE = 64


def write_report(runs, output, images=MOST_IMAGES, skip_corrupt=False):
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
    names = Counter(report["name"] for report in reports)
    for report, folder in zip(reports, runs, strict=True):
        if names[report["name"]] > 1:
            report["name"] = as_addresses(folder)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"percent": _percent, "count": _count, "image": image_url}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    page = template.render(runs=reports, settings=_differing_settings([report["config"] for report in reports]))
    with atomic_write(output) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    return output


def _report_on(folder, images, skip_corrupt) -> dict[str, Any]:
    """What the template shows of one run."""
    results, recipe, model = read_results(folder), read_recipe(folder), load_model(folder)
    predictor, parts = Predictor.of(model).for_classes("to report on"), Anatomy(model)
    report: dict[str, Any] = {
        "name": folder.resolve().name,
        "config": dataclasses.asdict(recipe),
        "data": data_name(recipe.data),
        "results": results,
        "standard_error": math.sqrt(results["accuracy"] * (1 - results["accuracy"]) / results["test_images"]),
        "architecture": parts.variant().described(),
        "classes": len(predictor.class_names),
        "parameters": model.count_params(),
        "macs": parts.variant().macs(model.input_shape[1:], len(predictor.class_names)),
        "bytes": (folder / "model.keras").stat().st_size,
        "answers": None,
        "problem": "",
    }
    try:
        source = run_source(folder, recipe, skip_corrupt=skip_corrupt)
        test = with_classes_of(source, predictor.class_names).test
        report["answers"] = read_answers(predictor, subsample(test, images)) | {"total": test.size}
    except (ValueError, OSError) as error:  # the data may have moved; the rest of the report does not need them
        report["problem"] = str(error)
        print(as_addresses(f"{folder}: {error}"), file=sys.stderr)
    return report


def read_answers(predictor, split) -> dict[str, Any]:
    """What the template shows of a model's answers on the images of a split."""
    names, size, crop = predictor.class_names, predictor.input_shape[:2], predictor.facts.evaluation_crop
    batches = evaluation_batches(split, image_size=size, batch_size=min(BATCH_SIZE, split.size), crop=crop)
    confusion, shown, position = np.zeros((len(names), len(names)), np.int64), [], 0
    progress = tqdm(total=split.size, desc="test images", unit="image", file=sys.stderr)
    with progress, naming_damaged_files(split):
        for images, labels in batches.as_numpy_iterator():
            probabilities = np.asarray(predictor.inputs["image"](images))
            guessed = guesses(probabilities)
            answered = count_guesses(confusion, labels, guessed)
            for i in np.flatnonzero((guessed != labels) & answered):
                sure, of_label = (float(probabilities[i, index]) for index in (guessed[i], labels[i]))
                mistake = {"pixels": images[i].astype(np.uint8), "confidence": sure, "of_label": of_label}
                shown.append(mistake | {"classes": (guessed[i], labels[i]), "position": position + int(i)})
            shown = sorted(shown, key=lambda mistake: -mistake["confidence"])[:MOST_MISTAKES]
            position += len(labels)
            progress.update(len(labels))
    for mistake in shown:
        mistake["guess"], mistake["label"] = (names[index] for index in mistake["classes"])
        mistake["overlay"] = overlay(mistake["pixels"], saliency(predictor, mistake["pixels"], *mistake["classes"]))
        # Two levels: the file and its class. More could name folders of one machine.
        file = "/".join(Path(split.files[mistake["position"]].path).parts[-2:]) if split.files else ""
        mistake["name"] = file or f"test image {mistake['position']}"
    images, predicted, right = confusion.sum(1), confusion.sum(0), np.diag(confusion)
    precision, recall = (
        np.divide(right, total, out=np.full(len(names), np.nan), where=total > 0) for total in (predicted, images)
    )
    worst_first = np.argsort(np.nan_to_num(recall, nan=2.0), kind="stable")
    return {
        "images": split.size,
        "errors": int(split.size - right.sum()),
        "mistakes": shown,
        "confusion": figure_url(confusion_figure(confusion, names)),
        "frequent": mistakes(confusion, names),
        "per_class": [(names[i], int(images[i]), float(precision[i]), float(recall[i])) for i in worst_first],
    }


def _differing_settings(configs):
    """`(field, value in each run)` of the recipes, for every field that differs."""
    rows = [(field, [config[field] for config in configs]) for field in configs[0] if field != "name"]
    return [(field, values) for field, values in rows if any(value != values[0] for value in values)]


def _percent(fraction, digits=2):
    return "-" if math.isnan(fraction) else f"{100 * fraction:.{digits}f}\N{NO-BREAK SPACE}%"


def _count(number):
    """Three digits and a unit, such as 12.6 G."""
    for factor, unit in ((1e9, "G"), (1e6, "M")):
        if number >= factor:
            return f"{number / factor:.3g}\N{NO-BREAK SPACE}{unit}"
    return f"{number:,}"

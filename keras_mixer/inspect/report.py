"""A self-contained HTML report on finished runs: accuracy, comparison, mistakes as images, tables, curves, weights."""

import base64
import io
import math
from collections import Counter
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_mixer.data.sources import data_name
from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.inspect.confusion import confusion_figure, mistakes
from keras_mixer.inspect.figures import DOTS_PER_INCH
from keras_mixer.inspect.finished_run import MOST_BLOCKS, MOST_IMAGES, read_run
from keras_mixer.inspect.saliency import overlay
from keras_mixer.inspect.training_curves import curves

TEMPLATE = Path(__file__).with_name("report.html.jinja")
MOST_CELLS = 20  # largest number of classes for which the confusion matrix is a table
LOSSLESS_SIDE = 64  # pixels; larger images are JPEG files in the page


def write_report(runs, output, images=MOST_IMAGES, skip_corrupt=False):
    """Writes the report.

    Args:
        runs: folders of finished runs.
        output: the `.html` file to write; must not exist.
        images: largest number of test images that each model classifies for the report, evenly spaced.
        skip_corrupt: leave out image files that cannot be decoded.

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
    read = [read_run(folder, images, skip_corrupt) for folder in runs]
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
        "low": np.nansum([f.low * f.units for f in run.frequencies]) / max(sum(f.units for f in run.frequencies), 1),
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
        names = run.evaluation["class_names"]
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

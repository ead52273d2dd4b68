"""Write a run for other runtimes, each file compared with the run first: export RUN --format FORMAT."""

from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from keras_mixer.commands.terminal import parse, print_table
from keras_mixer.data.pipeline import evaluation_batches
from keras_mixer.data.sources import load_source
from keras_mixer.export.interchange import export_onnx, export_openvino
from keras_mixer.export.parity import THRESHOLDS, Threshold, compare, place_when_proved, size_of, thinned
from keras_mixer.export.saved_model import export_saved_model, version_folder
from keras_mixer.export.tflite import export_tflite
from keras_mixer.export.web import MODEL, export_web
from keras_mixer.files import refuse_existing
from keras_mixer.models import class_names_of, evaluation_crop_of
from keras_mixer.serving.predictor import load_classifier
from keras_mixer.training.run_directory import read_recipe

CALLS_OF = 32  # images in a call when the export takes any number


def run(arguments):
    """Write a run for other runtimes: export RUN --format FORMAT."""
    parse(export, "export", arguments)


def export(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    format: Literal["saved_model", "tflite", "onnx", "openvino", "web"] = "saved_model",
    output: Path | None = None,
    quantization: Literal["none", "float16", "dynamic_int8", "int8"] = "none",
    version: int | None = None,
    top_k: int = 5,
    batch_size: int = 1,
    data: str | None = None,
    data_dir: str | None = None,
    images: int = 1000,
    calibration_images: int = 256,
    max_difference: float | None = None,
    min_agreement: float | None = None,
    threads: int | None = None,
):
    """Write a finished run for other runtimes, after comparing what was written with the run on test images.

    The comparison is printed and saved beside the export as NAME.parity.json. An export that fails it is kept as
    NAME.failed, and the command ends with an error.

    Args:
        run: folder of a finished run, or a .keras file.
        format: saved_model (TensorFlow Serving), tflite (devices), onnx, openvino, or web (a page for browsers).
        output: where to write: for saved_model the folder of all versions, for openvino and web a folder, else the
            file. By default RUN/export/saved_model, model.tflite, model.onnx, openvino, web.
        quantization: of tflite and web: none (float32), float16, dynamic_int8 (weights); of tflite also int8 (all;
            uint8 in and out).
        version: of saved_model; the next free one by default.
        top_k: of saved_model: how many classes and labels to answer with.
        batch_size: of tflite: images in a call.
        data: image folder or TensorFlow Datasets name to compare and calibrate on; the run's own by default.
        data_dir: folder with prepared TensorFlow Datasets.
        images: at most so many test images are compared.
        calibration_images: at most so many training images calibrate int8.
        max_difference: largest allowed difference of a probability; 1e-5, for float16 1e-3, for int8 none by default.
        min_agreement: smallest allowed share of images with the same top-1; for int8 0.99, else none by default.
        threads: of the export's runtime in the comparison; all cores by default.
    """
    if (quantization != "none" and format not in ("tflite", "web")) or (batch_size != 1 and format != "tflite"):
        raise ValueError(f"--quantization and --batch-size are options of --format tflite, not of {format}.")
    folder = output or (run if run.is_dir() else run.parent) / "export" / _default_name(format)
    target = version_folder(folder, version) if format == "saved_model" else folder
    refuse_existing(target)
    model = load_classifier(run)
    source = _source(run, data, data_dir, model)
    crop, kind = evaluation_crop_of(model), None if quantization == "none" else quantization

    def write(staging):
        # SavedModel: the folder's name, which is the model's on a server, is written inside.
        name = staging / target.resolve().parent.name if format == "saved_model" else staging / target.name
        if format == "saved_model":
            return export_saved_model(model, name, version=int(target.name), top_k=top_k)
        if format == "onnx":
            return export_onnx(model, name)
        if format == "openvino":
            return export_openvino(model, name)
        if format == "web":
            return export_web(model, name, quantization=kind)
        calibration = None if kind != "int8" else _images(source.train, calibration_images, model, crop)
        return export_tflite(model, name, quantization=kind, representative_images=calibration, batch_size=batch_size)

    def prove(written):
        split = thinned(source.test, images)
        size = {"tflite": batch_size, "web": 1}.get(format, CALLS_OF)
        batches = evaluation_batches(split, image_size=model.input_shape[1:3], batch_size=size, crop=crop)
        given = Threshold(max_difference, min_agreement)
        file = written / MODEL if format == "web" else written
        return compare(model, file, batches, THRESHOLDS[kind] if given == Threshold() else given, threads)

    place, parity = place_when_proved(write, target, prove)
    _report(parity)
    if not parity.passed:
        raise ValueError(
            f"The export differs too much from its model. It is kept as {place}; nothing was put at {target}."
        )
    print(f"\nWritten: {place} ({size_of(place) / 1e6:.2f} MB)")
    following = (
        f"python -m http.server --directory {place}" if format == "web" else f"keras-mixer predict {place} IMAGE..."
    )
    print(f"Next:\n  {following}")


def _default_name(format):
    return {"tflite": "model.tflite", "onnx": "model.onnx"}.get(format, format)


def _source(run, data, data_dir, model):
    """The data to compare on: what was asked for, or the run's own."""
    if (run / "config.json").is_file():
        recipe = read_recipe(run)
        options = {"train_split": recipe.train_split, "test_split": recipe.test_split}
        source = load_source(
            data or recipe.data, data_dir or recipe.data_dir, test_fraction=recipe.test_fraction, **options
        )
    elif data is None:
        raise ValueError(
            f"{run} does not say which data it was trained on. Name test data with --data (an image folder, a "
            "TensorFlow Datasets name or digits): every export is compared with its model before it counts."
        )
    else:
        source = load_source(data, data_dir)
    if source.class_names != class_names_of(model):
        raise ValueError(
            f"Data {source.name!r} has other classes than the model: {len(source.class_names)} "
            f"({', '.join(source.class_names[:3])}, ...) and {len(class_names_of(model))} "
            f"({', '.join(class_names_of(model)[:3])}, ...). Name data of the same classes with --data."
        )
    return source


def _images(split, count, model, crop):
    batches = evaluation_batches(
        thinned(split, count), image_size=model.input_shape[1:3], batch_size=CALLS_OF, crop=crop
    )
    return np.concatenate([images.numpy() for images, _ in batches])


def _report(parity):
    allowed, needed = parity.threshold.max_difference, parity.threshold.min_agreement
    print_table(
        (f"{parity.images:,} images", f"model ({parity.backend})", f"export ({parity.runtime})", "allowed"),
        [
            ("right", f"{parity.model_accuracy:.2%}", f"{parity.export_accuracy:.2%}", ""),
            ("same top-1", "", f"{parity.agreement:.2%}", "" if needed is None else f"at least {needed:.2%}"),
            ("largest difference", "", f"{parity.max_difference:.1e}", "" if allowed is None else f"{allowed:.0e}"),
            ("mean difference", "", f"{parity.mean_difference:.1e}", ""),
            (
                f"images/s, {parity.batch_size} at a time",
                f"{parity.model_images_per_second:,.1f}",
                f"{parity.export_images_per_second:,.1f} ({parity.threads} threads)",
                "",
            ),
            ("size", "", f"{parity.bytes / 1e6:,.2f} MB", ""),
        ],
    )

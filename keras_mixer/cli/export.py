"""Models for other programs: export, which verifies each file against the run, and convert."""

import dataclasses
import inspect
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro
from tqdm.auto import tqdm

from keras_mixer.cli.terminal import Run, folder_of, print_table
from keras_mixer.data.batches import evaluation_batches
from keras_mixer.data.image_files import naming_damaged_files
from keras_mixer.data.sources import load_source, with_classes_of
from keras_mixer.data.splits import subsample
from keras_mixer.description import describe
from keras_mixer.export import verified
from keras_mixer.export.predictor import Unsupported, load_model, require_tensorflow
from keras_mixer.export.verified import FORMATS, ExportDiffers
from keras_mixer.export.web import example_images
from keras_mixer.fields import Count, CountFrom0
from keras_mixer.files import refuse_existing
from keras_mixer.imagenet_classes import with_names
from keras_mixer.training.inputs import run_source
from keras_mixer.training.run import read_recipe, read_results
from keras_mixer.weights.convert import convert as convert_weights

ALL = "all"
BATCH_SIZE = 32  # of the images for calibration
if TYPE_CHECKING:
    FormatName = str
else:
    FormatName = Literal[(*FORMATS, ALL)]  # the choices listed by --help


def export(
    run: Run,
    format: FormatName = "saved_model",
    output: Path | None = None,
    quantization: Literal["none", "float16", "dynamic_int8", "int8"] = "none",
    precision: Literal["float32", "bfloat16"] = "float32",
    version: int | None = None,
    top_k: Count = 5,
    batch_size: Count = 1,
    classifier_activation: Literal["softmax", "sigmoid"] | None = None,
    data: str | None = None,
    data_dir: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    skip_corrupt: bool = False,
    images: Count = 1000,
    calibration_images: Count = 256,
    max_difference: float | None = None,
    min_agreement: float | None = None,
    threads: int | None = None,
    examples: CountFrom0 = 5,
):
    """Export a finished run to another runtime and verify the export against the run on test images.

    The comparison is printed and saved next to the export as NAME.parity.json. An export that fails it is kept as
    NAME.failed, and the command ends with an error. From Python: `keras_mixer.export`.

    Args:
        run: folder of a finished run, or a .keras file, also hf://owner/name/file.
        format: saved_model (TensorFlow Serving), tflite (mobile and edge devices), onnx, openvino, web (a page for
            browsers), or all: every one that this model and machine allow, in one table.
        output: path of the export: for saved_model the folder of all versions, for openvino and web a folder, for all
            the folder of all exports, else the file. By default RUN/export/saved_model, model.tflite, model.onnx,
            openvino, web.
        quantization: for tflite and web: none (float32), float16, dynamic_int8 (weights only); for tflite also int8
            (everything; uint8 input and output).
        precision: for saved_model: bfloat16 halves the size and is faster on servers whose processors multiply bfloat16
            (AVX512_BF16, AMX), slower on others.
        version: for saved_model; the next free version by default.
        top_k: for saved_model: number of classes and labels to return.
        batch_size: for tflite: images per call.
        classifier_activation: for a model that outputs logits: turns them into probabilities; implied by its loss by
            default.
        data: image folder or TensorFlow Datasets name for comparison and calibration; the run's own by default.
        data_dir: folder with prepared TensorFlow Datasets.
        train_split: split to calibrate on; the run's own by default.
        test_split: split to compare on; the run's own by default.
        skip_corrupt: leave out image files that cannot be decoded.
        images: largest number of test images to compare.
        calibration_images: largest number of training images to calibrate int8.
        max_difference: largest allowed difference of a probability; by default 1e-5, for float16 1e-3, for bfloat16
            0.05, for int8 none.
        min_agreement: smallest allowed fraction of images with the same top-1; by default 0.99 for int8 and bfloat16,
            else none. Setting one of the two limits keeps the default of the other.
        threads: of the export's runtime in the comparison; all cores by default.
        examples: for web: test images that visitors can click, and download; 0 for none.
    """
    require_tensorflow()
    kind = None if quantization == "none" else quantization
    options: dict[str, Any] = {"quantization": kind, "batch_size": batch_size, "precision": precision}
    options |= {"top_k": top_k, "version": version, "examples": examples}
    defaults = {name: one.default for name, one in inspect.signature(export).parameters.items()}
    defaults["quantization"] = None
    folder = folder_of(run) / "export" if output is None else output
    if format == ALL:
        paths = {name: folder / one.name for name, one in FORMATS.items()}
    else:
        paths = {format: folder / FORMATS[format].name if output is None else folder}
        options = {name: value for name, value in options.items() if value != defaults[name]}
        verified.format_with(format, options)
    for name, path in paths.items():
        refuse_existing(FORMATS[name].target(path, version))
    model = load_model(run)
    description = describe(model, classifier_activation=classifier_activation)
    given = {"data_dir": data_dir, "train_split": train_split, "test_split": test_split}
    given = {name: value for name, value in given.items() if value is not None}
    source = _source(run, data, given, {"crop": description.evaluation_crop, "skip_corrupt": skip_corrupt})
    source = with_classes_of(source, description.class_names)
    if kind == "int8":
        options["representative_images"] = _calibration(source.train, calibration_images, description)
    if "web" in paths:
        options |= _page_of(run, source, examples)
    common: dict[str, Any] = {"classifier_activation": classifier_activation, "threads": threads}
    common |= {"max_difference": max_difference, "min_agreement": min_agreement}
    split = subsample(source.test, images)

    def verify(name):
        own = options if format != ALL else {n: v for n, v in options.items() if n in FORMATS[name].options}
        return verified.export(model, name, paths[name], split, **common, **own)

    if format == ALL:
        return _export_all(paths, verify)
    try:
        parity = verify(format)
    except ExportDiffers as error:
        _report(error.parity)
        raise
    _report(parity)
    print(f"\nWritten: {parity.path} ({parity.bytes / 1e6:.2f} MB)")
    server = f"python -m http.server --directory {parity.path}"
    print(f"Next:\n  {server if format == 'web' else f'keras-mixer predict {parity.path} IMAGE...'}")


def _export_all(names, verify):
    """Prints a row for each format; one that is impossible for this model or machine has not failed."""
    rows, written, failed = [], [], []
    for name in tqdm(names, leave=False, unit="format", file=sys.stderr):
        began, parity = time.perf_counter(), None
        try:
            parity, result = verify(name), "written"
            written.append(name)
        except Exception as error:  # each format has its own libraries; whatever fails in one, the others are written
            parity, reason = getattr(error, "parity", None), " ".join(str(error).split()) or type(error).__name__
            result = "differs too much" if parity else f"failed: {reason}"
            if isinstance(error, Unsupported):
                result = f"not possible: {reason}"
            else:
                failed.append(name)
        figures = ("-", "-", "-", "-")
        if parity:
            sizes = f"{parity.bytes / 1e6:,.2f} MB", f"{parity.max_difference:.1e}", f"{parity.agreement:.2%}"
            figures = (str(parity.path), *sizes)
        rows.append((name, *figures, f"{time.perf_counter() - began:.1f}", result))
    print_table(("format", "file", "size", "largest difference", "same top-1", "seconds", "result"), rows)
    if failed:
        raise ValueError(f"Not every format could be verified: {', '.join(failed)}. The table says why.")
    if not written:
        raise ValueError("No format is possible for this model on this machine. The table says why.")


def convert(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")],
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    like: Path | None = None,
):
    """Convert a weight file to another format.

    Args:
        source: .npz (official or timm names), .safetensors (timm), .keras or .weights.h5.
        target: .npz (official), .keras or .weights.h5; it must not exist.
        like: a .keras file of the same model; required for a .weights.h5 source.
    """
    print(f"Written: {convert_weights(source, target, like)}")


def _source(run, data, given, options):
    """The data for the comparison: the given ones, or the run's own."""
    recipe = read_recipe(run) if (run / "config.json").is_file() else None
    if recipe is not None and data in (None, recipe.data):
        return run_source(run, dataclasses.replace(recipe, **given), skip_corrupt=options["skip_corrupt"])
    if data is None:
        raise ValueError(
            f"{run} does not contain the name of its training data. Pass test data with --data (an image folder, a "
            "TensorFlow Datasets name or digits): every export is verified against its model."
        )
    return load_source(data, **(recipe.data_splits() if recipe else {}) | given, **options)


def _page_of(run, source, examples):
    """What the web page says about the model; a `.keras` file knows no test results."""
    shown = example_images(source.test, with_names(source.class_names), examples)
    if not (run / "results.json").is_file():
        return {"title": run.stem, "examples": shown}
    results = read_results(run)
    part = results["part"]
    measured = f"{100 * results['accuracy']:.2f} % on {results['test_images']:,} {part} images"
    facts = {f"{part.capitalize()} accuracy": measured}
    return {"title": run.resolve().name, "facts": facts, "examples": shown}


def _calibration(split, count, description):
    """`(N, H, W, 3) uint8`: training images as the input of the model."""
    few, crop = subsample(split, count), description.evaluation_crop
    with naming_damaged_files(few, crop=crop):
        batches = evaluation_batches(few, image_size=description.input_shape[:2], batch_size=BATCH_SIZE, crop=crop)
        return np.concatenate([images.numpy() for images, _ in batches])


def _report(parity):
    def percent(value):
        return "unknown" if value is None else f"{value:.2%}"

    allowed, needed = parity.allowed_difference, parity.needed_agreement
    compared = f"largest difference ({', '.join(parity.inputs)})"
    rates = f"{parity.export_images_per_second:,.1f} ({parity.threads} threads)"
    rows = [
        ("top-1 accuracy", percent(parity.model_accuracy), percent(parity.export_accuracy), ""),
        ("same top-1", "", f"{parity.agreement:.2%}", "" if needed is None else f"at least {needed:.2%}"),
        (compared, "", f"{parity.max_difference:.1e}", "" if allowed is None else f"{allowed:.0e}"),
        ("mean difference", "", f"{parity.mean_difference:.1e}", ""),
        (f"images/s, batch size {parity.batch_size}", f"{parity.model_images_per_second:,.1f}", rates, ""),
        ("size", "", f"{parity.bytes / 1e6:,.2f} MB", ""),
    ]
    if parity.minimum_runtime:
        rows.append(("minimum runtime", "", f"TensorFlow Lite {parity.minimum_runtime}", ""))
    print_table((f"{parity.images:,} images", "model (Keras)", f"export ({parity.runtime})", "allowed"), rows)

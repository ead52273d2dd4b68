"""Models for other programs: export, which verifies each file against the run, and convert."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from keras_mixer import conversion
from keras_mixer.cli.terminal import Run, folder_of, print_table
from keras_mixer.data.sources import load_source
from keras_mixer.description import describe
from keras_mixer.export.interchange import export_onnx, export_openvino
from keras_mixer.export.loading import load_model
from keras_mixer.export.parity import THRESHOLDS, compare, place_when_proved, size_of, subsample
from keras_mixer.export.saved_model import export_saved_model, version_folder
from keras_mixer.export.tflite import export_tflite
from keras_mixer.export.web import MODEL, Card, export_web
from keras_mixer.export.web_examples import example_images
from keras_mixer.fields import Count, CountFrom0
from keras_mixer.files import refuse_existing
from keras_mixer.imagenet_classes import with_names
from keras_mixer.inspect.model_card import data_name
from keras_mixer.training.run_directory import read_recipe

BATCH_SIZE = 32  # for exports that take any number of images


def export(
    run: Run,
    format: Literal["saved_model", "tflite", "onnx", "openvino", "web"] = "saved_model",
    output: Path | None = None,
    quantization: Literal["none", "float16", "dynamic_int8", "int8"] = "none",
    version: int | None = None,
    top_k: int = 5,
    batch_size: Count = 1,
    classifier_activation: Literal["softmax", "sigmoid"] | None = None,
    data: str | None = None,
    data_dir: str | None = None,
    images: Count = 1000,
    calibration_images: Count = 256,
    max_difference: float | None = None,
    min_agreement: float | None = None,
    threads: int | None = None,
    examples: CountFrom0 = 5,
):
    """Export a finished run to another runtime and verify the export against the run on test images.

    The comparison is printed and saved next to the export as NAME.parity.json. An export that fails it is kept as
    NAME.failed, and the command ends with an error.

    Args:
        run: folder of a finished run, or a .keras file, also hf://owner/name/file.
        format: saved_model (TensorFlow Serving), tflite (mobile and edge devices), onnx, openvino, or web (a page for
            browsers).
        output: path of the export: for saved_model the folder of all versions, for openvino and web a folder, else the
            file. By default RUN/export/saved_model, model.tflite, model.onnx, openvino, web.
        quantization: for tflite and web: none (float32), float16, dynamic_int8 (weights only); for tflite also int8
            (everything; uint8 input and output).
        version: for saved_model; the next free version by default.
        top_k: for saved_model: number of classes and labels to return.
        batch_size: for tflite: images per call.
        classifier_activation: for a model that outputs logits: turns them into probabilities; implied by its loss by
            default.
        data: image folder or TensorFlow Datasets name for comparison and calibration; the run's own by default.
        data_dir: folder with prepared TensorFlow Datasets.
        images: largest number of test images to compare.
        calibration_images: largest number of training images to calibrate int8.
        max_difference: largest allowed difference of a probability; by default 1e-5, for float16 1e-3, for int8 none.
        min_agreement: smallest allowed fraction of images with the same top-1; by default 0.99 for int8, else none.
            Setting one of the two limits keeps the default of the other.
        threads: of the export's runtime in the comparison; all cores by default.
        examples: for web: test images that visitors can click, and download; 0 for none.
    """
    if (quantization != "none" and format not in ("tflite", "web")) or (batch_size != 1 and format != "tflite"):
        raise ValueError(f"--quantization and --batch-size are options of --format tflite, not of {format}.")
    folder = output or folder_of(run) / "export" / _default_name(format)
    target = version_folder(folder, version) if format == "saved_model" else folder
    refuse_existing(target)
    model = load_model(run)
    description = describe(model, classifier_activation=classifier_activation)
    source = _source(run, data, data_dir, description.class_names)
    kind = None if quantization == "none" else quantization

    def write(staging):
        # The folder's name is the name of the model on a server, and is stored in a SavedModel.
        name = staging / target.resolve().parent.name if format == "saved_model" else staging / target.name
        options: dict[str, Any] = {"classifier_activation": classifier_activation}
        if format == "saved_model":
            return export_saved_model(model, name, version=int(target.name), top_k=top_k, **options)
        if format == "onnx":
            return export_onnx(model, name, **options)
        if format == "openvino":
            return export_openvino(model, name, **options)
        if format == "web":
            return export_web(model, name, quantization=kind, card=_card(run, source, examples), **options)
        options |= {"quantization": kind, "batch_size": batch_size}
        if kind == "int8":
            options["representative_images"] = _images(source.train, calibration_images, description)
        return export_tflite(model, name, **options)

    def prove(written):
        split = subsample(source.test, images)
        size = {"tflite": batch_size, "web": 1}.get(format, BATCH_SIZE)
        threshold = THRESHOLDS[kind].changed(max_difference=max_difference, min_agreement=min_agreement)
        file = written / MODEL if format == "web" else written
        return compare(model, file, _batches(split, size, description), threshold, threads, classifier_activation)

    place, parity = place_when_proved(write, target, prove)
    _report(parity)
    if not parity.passed:
        raise ValueError(
            f"The export differs too much from its model. It is kept as {place}; {target} was not written."
        )
    print(f"\nWritten: {place} ({size_of(place) / 1e6:.2f} MB)")
    use = f"python -m http.server --directory {place}" if format == "web" else f"keras-mixer predict {place} IMAGE..."
    print(f"Next:\n  {use}")


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
    print(f"Written: {conversion.convert(source, target, like)}")


def _percent(value):
    return "no head" if value is None else f"{value:.2%}"


def _default_name(format):
    return {"tflite": "model.tflite", "onnx": "model.onnx"}.get(format, format)


def _source(run, data, data_dir, class_names):
    """The data for the comparison: the given ones, or the run's own."""
    if (run / "config.json").is_file():
        recipe = read_recipe(run)
        source = load_source(data or recipe.data, data_dir or recipe.data_dir, **recipe.data_splits())
    elif data is None:
        raise ValueError(
            f"{run} does not contain the name of its training data. Pass test data with --data (an image folder, a "
            "TensorFlow Datasets name or digits): every export is verified against its model."
        )
    else:
        source = load_source(data, data_dir)
    same = with_names(source.class_names) == with_names(class_names)  # ImageNet's folders are named by WordNet ids
    if class_names and not same:  # a model without a head has none
        raise ValueError(
            f"Data {source.name!r} has other classes than the model: {len(source.class_names)} "
            f"({', '.join(source.class_names[:3])}, ...) and {len(class_names)} ({', '.join(class_names[:3])}, ...). "
            "Pass data with the same classes with --data."
        )
    return source


def _card(run, source, examples):
    """What the web page says about the model; a `.keras` file knows no data."""
    shown = example_images(source.test, with_names(source.class_names), examples)
    if not (run / "results.json").is_file():
        return Card(run.stem, examples=shown)
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    trained_on = data_name(read_recipe(run).data)
    return Card(run.resolve().name, trained_on, results["accuracy"], results["test_images"], shown)


def _batches(split, size, description):
    """`(images uint8, labels, encoded)`: each image as the input of the model, and as stored."""
    from keras_mixer.data.pipeline import evaluation_batches  # takes 0.4 s, which `convert` saves

    options = {"image_size": description.input_shape[:2], "batch_size": size, "crop": description.evaluation_crop}
    encoded = split.elements.map(lambda element: split.read(element)["image"]).batch(size)
    for (images, labels), stored in zip(evaluation_batches(split, **options), encoded, strict=True):
        yield images.numpy(), labels.numpy(), stored.numpy()


def _images(split, count, description):
    return np.concatenate([images for images, *_ in _batches(subsample(split, count), BATCH_SIZE, description)])


def _report(parity):
    allowed, needed = parity.threshold.max_difference, parity.threshold.min_agreement
    print_table(
        (f"{parity.images:,} images", f"model ({parity.backend})", f"export ({parity.runtime})", "allowed"),
        [
            ("top-1 accuracy", _percent(parity.model_accuracy), _percent(parity.export_accuracy), ""),
            ("same top-1", "", f"{parity.agreement:.2%}", "" if needed is None else f"at least {needed:.2%}"),
            (
                f"largest difference ({', '.join(parity.inputs)})",
                "",
                f"{parity.max_difference:.1e}",
                "" if allowed is None else f"{allowed:.0e}",
            ),
            ("mean difference", "", f"{parity.mean_difference:.1e}", ""),
            (
                f"images/s, batch size {parity.batch_size}",
                f"{parity.model_images_per_second:,.1f}",
                f"{parity.export_images_per_second:,.1f} ({parity.threads} threads)",
                "",
            ),
            ("size", "", f"{parity.bytes / 1e6:,.2f} MB", ""),
        ],
    )

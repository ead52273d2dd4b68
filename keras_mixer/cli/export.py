"""Writing models for other programs: export, which compares each file with the run first, and convert."""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from keras_mixer import conversion
from keras_mixer.cli.terminal import Run, print_table
from keras_mixer.data.sources import load_source
from keras_mixer.description import describe
from keras_mixer.export.interchange import export_onnx, export_openvino
from keras_mixer.export.loading import load_model
from keras_mixer.export.parity import THRESHOLDS, compare, place_when_proved, size_of, subsample
from keras_mixer.export.saved_model import export_saved_model, version_folder
from keras_mixer.export.tflite import export_tflite
from keras_mixer.export.web import MODEL, export_web
from keras_mixer.fields import Count
from keras_mixer.files import refuse_existing
from keras_mixer.training.run_directory import read_recipe

CALLS_OF = 32  # images in a call when the export takes any number


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
        classifier_activation: of a model of logits: what makes probabilities of them; what its loss implies by default.
        data: image folder or TensorFlow Datasets name to compare and calibrate on; the run's own by default.
        data_dir: folder with prepared TensorFlow Datasets.
        images: at most so many test images are compared.
        calibration_images: at most so many training images calibrate int8.
        max_difference: largest allowed difference of a probability; 1e-5, for float16 1e-3, for int8 none by default.
        min_agreement: smallest allowed share of images with the same top-1; for int8 0.99, else none by default. Each
            of the two limits keeps its default while only the other is given.
        threads: of the export's runtime in the comparison; all cores by default.
    """
    if (quantization != "none" and format not in ("tflite", "web")) or (batch_size != 1 and format != "tflite"):
        raise ValueError(f"--quantization and --batch-size are options of --format tflite, not of {format}.")
    folder = output or (run if run.is_dir() else run.parent) / "export" / _default_name(format)
    target = version_folder(folder, version) if format == "saved_model" else folder
    refuse_existing(target)
    model = load_model(run)
    description = describe(model, classifier_activation=classifier_activation)
    source = _source(run, data, data_dir, description.class_names)
    kind = None if quantization == "none" else quantization

    def write(staging):
        # SavedModel: the folder's name, which is the model's on a server, is written inside.
        name = staging / target.resolve().parent.name if format == "saved_model" else staging / target.name
        options: dict[str, Any] = {"classifier_activation": classifier_activation}
        if format == "saved_model":
            return export_saved_model(model, name, version=int(target.name), top_k=top_k, **options)
        if format == "onnx":
            return export_onnx(model, name, **options)
        if format == "openvino":
            return export_openvino(model, name, **options)
        if format == "web":
            return export_web(model, name, quantization=kind, **options)
        options |= {"quantization": kind, "batch_size": batch_size}
        if kind == "int8":
            options["representative_images"] = _images(source.train, calibration_images, description)
        return export_tflite(model, name, **options)

    def prove(written):
        split = subsample(source.test, images)
        size = {"tflite": batch_size, "web": 1}.get(format, CALLS_OF)
        threshold = THRESHOLDS[kind].changed(max_difference=max_difference, min_agreement=min_agreement)
        file = written / MODEL if format == "web" else written
        return compare(model, file, _batches(split, size, description), threshold, threads, classifier_activation)

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


def convert(
    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")],
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    like: Path | None = None,
):
    """Turn a weight file into another format.

    Args:
        source: .npz (official or timm's names), .safetensors (timm), .keras or .weights.h5.
        target: .npz (official), .keras or .weights.h5; must not exist.
        like: a .keras file of the same model; needed for a .weights.h5 source.
    """
    print(f"Written: {conversion.convert(source, target, like)}")


def _share(value):
    return "no head" if value is None else f"{value:.2%}"


def _default_name(format):
    return {"tflite": "model.tflite", "onnx": "model.onnx"}.get(format, format)


def _source(run, data, data_dir, class_names):
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
    if class_names and source.class_names != class_names:  # a model without head has none
        raise ValueError(
            f"Data {source.name!r} has other classes than the model: {len(source.class_names)} "
            f"({', '.join(source.class_names[:3])}, ...) and {len(class_names)} ({', '.join(class_names[:3])}, ...). "
            "Name data of the same classes with --data."
        )
    return source


def _batches(split, size, description):
    """`(images uint8, labels, encoded)`: each image as the model is to see it, and as it was stored."""
    from keras_mixer.data.pipeline import evaluation_batches  # 0.4 s that `convert` does without

    options = {"image_size": description.input_shape[:2], "batch_size": size, "crop": description.evaluation_crop}
    encoded = split.elements.map(lambda element: split.read(element)["image"]).batch(size)
    for (images, labels), stored in zip(evaluation_batches(split, **options), encoded, strict=True):
        yield images.numpy(), labels.numpy(), stored.numpy()


def _images(split, count, description):
    return np.concatenate([images for images, *_ in _batches(subsample(split, count), CALLS_OF, description)])


def _report(parity):
    allowed, needed = parity.threshold.max_difference, parity.threshold.min_agreement
    print_table(
        (f"{parity.images:,} images", f"model ({parity.backend})", f"export ({parity.runtime})", "allowed"),
        [
            ("top-1 accuracy", _share(parity.model_accuracy), _share(parity.export_accuracy), ""),
            ("same top-1", "", f"{parity.agreement:.2%}", "" if needed is None else f"at least {needed:.2%}"),
            (
                f"largest difference ({', '.join(parity.inputs)})",
                "",
                f"{parity.max_difference:.1e}",
                "" if allowed is None else f"{allowed:.0e}",
            ),
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

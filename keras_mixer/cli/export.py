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

from keras_mixer import conversion
from keras_mixer.cli.terminal import Run, folder_of, print_table
from keras_mixer.data.image_files import naming_damaged_files
from keras_mixer.data.sources import load_source, with_classes_of
from keras_mixer.description import describe
from keras_mixer.export.formats import FORMATS
from keras_mixer.export.loading import load_model
from keras_mixer.export.parity import THRESHOLDS, Parity, compare, place_when_proved, size_of, subsample
from keras_mixer.export.predictor import Unsupported
from keras_mixer.export.web import Card
from keras_mixer.export.web_examples import example_images
from keras_mixer.fields import Count, CountFrom0
from keras_mixer.files import refuse_existing
from keras_mixer.imagenet_classes import with_names
from keras_mixer.training.inputs import run_source
from keras_mixer.training.run_directory import read_recipe, read_results

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
    NAME.failed, and the command ends with an error.

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
    settings: dict[str, Any] = {"quantization": quantization, "batch_size": batch_size}
    settings |= {"precision": precision, "version": version, "top_k": top_k, "examples": examples}
    if format == ALL:
        folder = output or folder_of(run) / "export"
        paths = {name: folder / kind.name for name, kind in FORMATS.items()}
    else:
        _refuse_options_of_others(format, settings)
        paths = {format: output or folder_of(run) / "export" / FORMATS[format].name}
    targets = {name: FORMATS[name].target(path, version) for name, path in paths.items()}
    for target in targets.values():
        refuse_existing(target)
    settings["classifier_activation"] = classifier_activation
    model = load_model(run)
    description = describe(model, classifier_activation=classifier_activation)
    given = {"data_dir": data_dir, "train_split": train_split, "test_split": test_split}
    given = {name: value for name, value in given.items() if value is not None}
    options = {"crop": description.evaluation_crop, "skip_corrupt": skip_corrupt}
    source = with_classes_of(_source(run, data, given, options), description.class_names)
    settings["quantization"] = kind = None if quantization == "none" else quantization
    with naming_damaged_files(source.train, crop=description.evaluation_crop):
        calibration = _images(source.train, calibration_images, description) if kind == "int8" else None
    settings["representative_images"] = calibration
    settings["card"] = _card(run, source, examples) if "web" in targets else None
    split = subsample(source.test, images)
    numbers = {"quantization": kind or "float32", "precision": precision}

    def verified(name) -> tuple[Path, Parity]:
        chosen, target = FORMATS[name], targets[name]
        threshold = THRESHOLDS[next((numbers[option] for option in chosen.options if option in numbers), "float32")]
        threshold = threshold.changed(max_difference=max_difference, min_agreement=min_agreement)

        def write(staging):
            # The folder's name is the name of the model on a server, and is stored in a SavedModel.
            return chosen.write(model, staging / target.resolve().parent.name / target.name, settings)

        def prove(written):
            size = batch_size if "batch_size" in chosen.options else chosen.batch_size
            batches = _batches(split, size, description)
            with naming_damaged_files(split, crop=description.evaluation_crop):
                return compare(model, written / chosen.opened, batches, threshold, threads, classifier_activation)

        return place_when_proved(write, target, prove)

    if format == ALL:
        _report_all([_attempt(name, verified) for name in tqdm(targets, leave=False, unit="format", file=sys.stderr)])
        return
    place, parity = verified(format)
    _report(parity)
    if not parity.passed:
        raise ValueError(
            f"The export differs too much from its model. It is kept as {place}; {targets[format]} was not written."
        )
    print(f"\nWritten: {place} ({size_of(place) / 1e6:.2f} MB)")
    use = f"python -m http.server --directory {place}" if format == "web" else f"keras-mixer predict {place} IMAGE..."
    print(f"Next:\n  {use}")


def _refuse_options_of_others(format, settings):
    """Raises ValueError if an option was given that the format does not have."""
    defaults = inspect.signature(export).parameters
    for option, value in settings.items():
        part = "card" if option == "examples" else option
        if part not in FORMATS[format].options and value != defaults[option].default:
            having = " and ".join(name for name, kind in FORMATS.items() if part in kind.options)
            raise ValueError(f"--{option.replace('_', '-')} is an option of --format {having}, not of {format}.")


@dataclasses.dataclass(frozen=True)
class _Outcome:
    """What became of one format of `--format all`."""

    format: str
    seconds: float
    place: Path | None = None
    parity: Parity | None = None
    error: Exception | None = None

    @property
    def failed(self) -> bool:
        """Whether the format should have been written and was not; one that is impossible here has not failed."""
        if self.parity is not None:
            return not self.parity.passed
        return not isinstance(self.error, Unsupported)

    def row(self) -> tuple[str, ...]:
        """The cells of the table."""
        seconds = f"{self.seconds:.1f}"
        if self.parity is None:
            word = "failed" if self.failed else "not possible"
            reason = " ".join(str(self.error).split()) or type(self.error).__name__
            return self.format, "-", "-", "-", "-", seconds, f"{word}: {reason}"
        return (
            self.format,
            str(self.place),
            f"{size_of(self.place) / 1e6:,.2f} MB",
            f"{self.parity.max_difference:.1e}",
            f"{self.parity.agreement:.2%}",
            seconds,
            "differs too much" if self.failed else "written",
        )


def _attempt(name, verified) -> _Outcome:
    began = time.perf_counter()
    try:
        place, parity = verified(name)
    except Exception as error:  # each format has its own libraries; whatever fails in one, the others are written
        return _Outcome(name, time.perf_counter() - began, error=error)
    return _Outcome(name, time.perf_counter() - began, place, parity)


def _report_all(outcomes):
    header = ("format", "file", "size", "largest difference", "same top-1", "seconds", "result")
    print_table(header, [outcome.row() for outcome in outcomes])
    failed = [outcome.format for outcome in outcomes if outcome.failed]
    if failed:
        raise ValueError(f"Not every format could be verified: {', '.join(failed)}. The table says why.")
    if not any(outcome.parity for outcome in outcomes):
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
    print(f"Written: {conversion.convert(source, target, like)}")


def _percent(value):
    return "no head" if value is None else f"{value:.2%}"


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


def _card(run, source, examples):
    """What the web page says about the model; a `.keras` file knows no test results."""
    shown = example_images(source.test, with_names(source.class_names), examples)
    if not (run / "results.json").is_file():
        return Card(run.stem, examples=shown)
    results = read_results(run)
    return Card(run.resolve().name, results["accuracy"], results["test_images"], shown, results["part"])


def _batches(split, size, description):
    """`(images uint8, labels, encoded)`: each image as the input of the model, and as a server takes it."""
    from keras_mixer.data.batches import evaluation_batches  # takes 0.4 s, which `convert` saves
    from keras_mixer.data.decode import for_server

    options = {"image_size": description.input_shape[:2], "batch_size": size, "crop": description.evaluation_crop}
    encoded = split.elements.map(lambda element: for_server(split.read(element))).batch(size)
    for (images, labels), files in zip(evaluation_batches(split, **options), encoded, strict=True):
        yield images.numpy(), labels.numpy(), files.numpy()


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

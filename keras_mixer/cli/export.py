"""Models for other programs: export, which verifies each file against the run, and convert."""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from keras_mixer.cli.terminal import DataOptions, Run, print_table, quoted
from keras_mixer.export import verified
from keras_mixer.export.predictor import Predictor, load_model
from keras_mixer.export.web import example_images
from keras_mixer.inspect.run_data import batches_of, source_for
from keras_mixer.storage import local_copy, with_addresses
from keras_mixer.training.recipe import Count, CountFrom0, settings
from keras_mixer.training.run import read_results
from keras_mixer.weights.convert import convert

MOST_EXAMPLES = 5  # on a page, unless a number is given
OF_ALL = ("classifier_activation", "max_difference", "min_agreement")  # options of all formats
OF_SOME = ("quantization", "precision", "version", "top_k", "batch_size", "examples")
In = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
Out = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]


@settings
class Export:
    """Export a finished run to another runtime and verify the export against the run on test images.

    The comparison is printed and saved next to the export as NAME.parity.json. An export that fails it is not written,
    and the command ends with an error. From Python: `keras_mixer.export`.
    """

    run: Run  # folder of a finished run, or a .keras file, also hf://owner/name/file
    format: Literal["saved_model", "tflite", "onnx", "openvino", "web"] = "saved_model"
    """saved_model (TensorFlow Serving), tflite (mobile and edge devices), onnx, openvino or web (a page for
    browsers)."""
    output: Path | None = None
    """The file to write, or the folder: for saved_model that of all versions; required for a .keras file. By default
    RUN/export/saved_model, model.tflite, model.onnx, openvino, web."""
    quantization: Literal["float16", "dynamic_int8", "int8"] | None = None
    """For tflite and web: float16 or dynamic_int8 (weights only); for tflite also int8 (uint8 input and output too)."""
    precision: Literal["float32", "bfloat16"] | None = None
    """For saved_model: bfloat16 halves the size; faster only on servers with AVX512_BF16 or AMX. By default float32."""
    version: int | None = None  # for saved_model; the next free version by default
    top_k: Count | None = None  # for saved_model: number of classes and labels to return, by default 5
    batch_size: Count | None = None  # for tflite: images per call, by default 1
    classifier_activation: Literal["softmax", "sigmoid"] | None = None  # after logits; by default as its loss implies
    data: str | None = None  # image folder or TensorFlow Datasets name to compare and calibrate on; the run's own
    source: DataOptions = DataOptions()
    train_split: str | None = None  # split to calibrate on; the run's own by default
    images: Count = 1000  # largest number of test images to compare
    calibration_images: Count = 256  # largest number of training images to calibrate int8
    max_difference: float | None = None
    """Largest allowed difference of a probability; by default 1e-5, float16 1e-3, bfloat16 0.05, int8 1."""
    min_agreement: float | None = None
    """Smallest allowed fraction of images with the same top-1; by default 0.99 for int8 and bfloat16, else 0."""
    examples: CountFrom0 | None = None
    """For web: test images that visitors can click, and download; by default 5, 0 for none."""

    def __call__(self):
        with local_copy(self.run) as run:
            if self.output is None and run.is_file():
                raise ValueError(f"Expected --output PATH for {with_addresses(run)}, which is not a run, got none.")
            options = {name: getattr(self, name) for name in OF_SOME if getattr(self, name) is not None}
            path = self.output or run / "export" / verified.FORMATS[self.format].name
            verified.target_of(self.format, path, options)  # before any data are read
            model = load_model(run)
            predictor = Predictor.of(model, classifier_activation=self.classifier_activation)
            given = self.source.given(data=self.data, train_split=self.train_split)
            source, *_ = source_for(run, predictor.class_names, given, skip_corrupt=self.source.skip_corrupt)
            if self.quantization == "int8" and self.format == "tflite":
                some = source.train.subsample(self.calibration_images)
                with batches_of(model, some, crop=predictor.facts.evaluation_crop) as (batches,):
                    options["representative_images"] = np.concatenate([images.numpy() for images, _ in batches])
            if self.format == "web":
                options |= self._page(run, source)
            options |= {name: getattr(self, name) for name in OF_ALL}
            try:
                parity = verified.export(model, self.format, path, source.test.subsample(self.images), **options)
            except verified.ExportDiffers as error:
                print_parity(error.parity)
                raise
            print_parity(parity)
            written, web = quoted(parity.path), self.format == "web"
            use = f"python -m http.server --directory {written}" if web else f"keras-mixer predict {written} IMAGE..."
            print(f"\nWritten: {with_addresses(parity.path)} ({parity.bytes / 1e6:.2f} MB)\nNext:\n  {use}")

    def _page(self, run, source) -> dict[str, Any]:
        """What the web page says about the model; a `.keras` file knows no test results."""
        count = MOST_EXAMPLES if self.examples is None else self.examples
        shown = example_images(source.test, source.class_names, count)
        if not (run / "results.json").is_file():
            return {"title": run.stem, "examples": shown}
        results = read_results(run)
        found = f"{100 * results['accuracy']:.2f} % on {results['test_images']:,} {results['part']} images"
        facts = {f"{results['part'].capitalize()} accuracy": found}
        return {"title": run.resolve().name, "facts": facts, "examples": shown}


def print_parity(parity):
    """Prints how an export compares with its model."""
    rates = f"{parity.export_images_per_second:,.1f} ({parity.threads} threads)"
    accuracies = ("unknown" if one is None else f"{one:.2%}" for one in (parity.model_accuracy, parity.export_accuracy))
    needed, allowed = parity.needed_agreement, parity.allowed_difference
    limit = f"{allowed:.0e}" if allowed < 1 else "-"
    rows = [
        ("top-1 accuracy", *accuracies, ""),
        ("same top-1", "", f"{parity.agreement:.2%}", f"at least {needed:.2%}" if needed else "-"),
        (f"largest difference ({', '.join(parity.inputs)})", "", f"{parity.max_difference:.1e}", limit),
        (f"images/s, batch size {parity.batch_size}", f"{parity.model_images_per_second:,.1f}", rates, ""),
        ("size", "", f"{parity.bytes / 1e6:,.2f} MB", ""),
    ]
    rows += [("minimum runtime", "", f"TensorFlow Lite {parity.minimum_runtime}", "")] * bool(parity.minimum_runtime)
    print_table((f"{parity.images:,} images", "model (Keras)", f"export ({parity.runtime})", "allowed"), rows)


@settings
class Convert:
    """Convert a weight file to another format."""

    source: In  # .npz (official or timm names), .safetensors (timm) or .keras
    target: Out  # .npz (official), .keras or .weights.h5; it must not exist

    def __call__(self):
        print(f"Written: {convert(self.source, self.target)}")

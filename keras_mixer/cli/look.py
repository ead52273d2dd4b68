"""Commands that inspect models: variants, saliency, report, card."""

import contextlib
import dataclasses
import webbrowser
from pathlib import Path
from typing import Annotated

import tyro

from keras_mixer.cli.terminal import Model, Run, Runs, print_table
from keras_mixer.export.predictor import load_model
from keras_mixer.files import refuse_existing
from keras_mixer.inspect.model_card import write_model_card
from keras_mixer.inspect.report import write_report
from keras_mixer.inspect.saliency import write_saliency
from keras_mixer.storage import local_copy, with_addresses
from keras_mixer.training.recipe import Count, CountFrom0, settings
from keras_mixer.variants import VARIANTS

Image = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")]


@settings
class Variants:
    """List the seven models of Table 1 and S/8 with parameters and cost."""

    image_size: Count = 224  # side of the image in pixels; models whose patch size does not divide it are marked
    classes: CountFrom0 = 1000  # outputs of the head; 0 for a model without head

    def __call__(self):
        rows = []
        for name, variant in VARIANTS.items():
            shape = (self.image_size, self.image_size, 3)
            try:
                cost = f"{variant.parameters(shape, self.classes):,}", f"{variant.macs(shape, self.classes) / 1e9:.3f}"
            except ValueError:
                cost = "-", "-"
            rows.append((name, *map(str, dataclasses.astuple(variant)), *cost))
        print_table(("variant", "patch", "blocks", "hidden", "tokens", "channels", "parameters", "GMACs"), rows)


@settings
class Saliency:
    """Show which regions of an image support a class (red) and which contradict it (blue)."""

    model: Model  # a finished run directory or .keras file
    image: Image  # an image file in any format that Pillow reads
    output: Path  # the PNG file to write; it must not exist
    class_name: str | None = None  # the class; the most probable one by default

    def __call__(self):
        refuse_existing(self.output)
        name = write_saliency(load_model(self.model), self.image, self.output, self.class_name)
        print(f"Written: {self.output} (class {name})")


@settings
class Report:
    """Write an HTML report on finished runs: accuracy, comparison, mistakes as images, confusion, classes.

    Each model classifies its own test images for it. Without them, the rest of the report is written.
    """

    runs: Runs  # folders of finished runs
    output: Path = Path("report.html")  # the .html file to write; it must not exist
    images: Count = 10_000  # largest number of test images to classify, from all over
    skip_corrupt: bool = False  # leave out image files that cannot be decoded
    open: bool = False  # open the report in the browser

    def __call__(self):
        with contextlib.ExitStack() as copies:
            runs = [copies.enter_context(local_copy(run)) for run in self.runs]
            written = write_report(runs, self.output, self.images, self.skip_corrupt)
        print(f"Written: {written}")
        if self.open:
            webbrowser.open(written.resolve().as_uri())


@settings
class Card:
    """Write a model card of a finished run, with the metadata that the Hugging Face Hub reads."""

    run: Run  # folder of a finished run; verified exports in it are included
    output: Path | None = None  # the file to write; it must not exist. By default RUN/README.md

    def __call__(self):
        with local_copy(self.run) as run:
            file = with_addresses(write_model_card(run, self.output))
        print(f"Written: {file}. Add a line such as license: mit after its first line.")

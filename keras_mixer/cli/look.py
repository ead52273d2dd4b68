"""Commands that inspect models: variants, saliency, report, card."""

import dataclasses
import webbrowser
from pathlib import Path
from typing import Annotated

import tyro

from keras_mixer.cli.terminal import Model, Run, Runs, print_table
from keras_mixer.fields import Count, CountFrom0
from keras_mixer.files import refuse_existing
from keras_mixer.variants import VARIANTS

OpenFlag = Annotated[bool, tyro.conf.arg(name="open")]


def variants(image_size: Count = 224, classes: CountFrom0 = 1000):
    """List the seven models of Table 1 and S/8 with parameters and cost.

    Args:
        image_size: side of the image in pixels; models whose patch size does not divide it are marked.
        classes: outputs of the head; 0 for a model without head.
    """
    rows = []
    for name, variant in VARIANTS.items():
        try:
            shape = (image_size, image_size, 3)
            cost = (f"{variant.parameters(shape, classes):,}", f"{variant.macs(shape, classes) / 1e9:.3f}")
        except ValueError:
            cost = ("-", "-")
        rows.append((name, *map(str, dataclasses.astuple(variant)), *cost))
    header = ("variant", "patch", "blocks", "hidden", "tokens", "channels", "parameters", "GMACs")
    print_table(header, rows)


def saliency(
    model: Model,
    image: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")],
    output: Path,
    class_name: str | None = None,
):
    """Show which regions of an image support a class (red) and which contradict it (blue).

    Args:
        model: a finished run directory or .keras file.
        image: an image file in any format that Pillow reads.
        output: the PNG file to write; must not exist.
        class_name: the class; the most probable one by default.
    """
    from keras_mixer.export.predictor import load_mixer
    from keras_mixer.inspect.saliency import write_saliency

    refuse_existing(output)
    print(f"Written: {output} (class {write_saliency(load_mixer(model), image, output, class_name)})")


def report(
    runs: Runs,
    output: Path = Path("report.html"),
    images: Count = 10_000,
    skip_corrupt: bool = False,
    open_browser: OpenFlag = False,
):
    """Write an HTML report on finished runs: comparison, mistakes as images, confusion, classes, curves, weights.

    Each model classifies its own test images for it. Without them, the rest of the report is written.

    Args:
        runs: folders of finished runs; results of keras-mixer evaluate and fewshot in them are included.
        output: the .html file to write; must not exist.
        images: largest number of test images to classify, evenly spaced.
        skip_corrupt: leave out image files that cannot be decoded.
        open_browser: open the report in the browser.
    """
    from keras_mixer.inspect.report import write_report

    written = write_report(runs, output, images, skip_corrupt)
    print(f"Written: {written}")
    if open_browser:
        webbrowser.open(written.resolve().as_uri())


def card(run: Run, output: Path | None = None):
    """Write a model card of a finished run, with the metadata that the Hugging Face Hub reads.

    Args:
        run: folder of a finished run; verified exports in it are included.
        output: the file to write; must not exist. By default RUN/README.md.
    """
    from keras_mixer.inspect.model_card import write_model_card

    print(f"Written: {write_model_card(run, output)}. Add a license to its first lines.")

"""VTAB-1k of a pre-trained model: vtab MODEL."""

import dataclasses
from pathlib import Path
from typing import Annotated

import tyro

from keras_mixer.commands.terminal import parse, print_table
from keras_mixer.export.loading import load_mixer
from keras_mixer.paper.vtab import VtabSettings, vtab_1k


def run(arguments):
    """VTAB-1k of a pre-trained model: vtab MODEL."""
    parse(vtab, "vtab", arguments)


def vtab(
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    workdir: Path,
    data_dir: str | None = None,
    tasks: tuple[str, ...] | None = None,
    settings: VtabSettings = VtabSettings(),  # noqa: B008 - frozen
    download: bool = False,
):
    """Fine-tune a model on each of the 19 tasks with 1000 examples; run again to go on after a stop.

    Args:
        model: a finished run directory or .keras file with pre-trained weights.
        workdir: folder of the report vtab.json.
        data_dir: folder with prepared TensorFlow Datasets.
        tasks: names of tasks; all 19 by default.
        settings: of the fine-tuning.
        download: fetch and prepare what is missing and needs nothing by hand.
    """
    options = {"tasks": tasks, "data_dir": data_dir, "settings": settings, "download": download, "name": str(model)}
    report = vtab_1k(load_mixer(model), workdir, **options)
    if report.tasks:
        rate = "median of seeds" if len(dataclasses.asdict(settings)["seeds"]) > 1 else "accuracy"
        print_table(("task", rate, "test images", "input", "rate"), report.table())
    if report.absent:
        print("\nNot measured:")
        for name, reason in report.absent.items():
            print(f"  {name}: {reason}")

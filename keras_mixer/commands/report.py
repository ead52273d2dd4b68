"""One HTML page about finished runs: report RUN..."""

from pathlib import Path
from typing import Annotated

import tyro

from keras_mixer.commands.terminal import parse
from keras_mixer.inspect.report import write_report


def run(arguments):
    """One HTML page about finished runs: report RUN..."""
    parse(report, "report", arguments)


def report(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")],
    output: Path = Path("report.html"),
):
    """Write one HTML page about finished runs: curves, tables, confusion, few-shot, weight pictures, cost.

    Args:
        runs: folders of finished runs; what keras-mixer evaluate and fewshot left in them is shown too.
        output: the .html file to write; must not exist.
    """
    print(f"Written: {write_report(runs, output)}")

"""Shared by all commands: types of options, printing tables and errors."""

import csv
import functools
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import tensorflow as tf
import tyro
from pydantic_core import to_jsonable_python

from keras_mixer.files import atomic_write
from keras_mixer.storage import with_addresses
from keras_mixer.training.recipe import settings

Model = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Runs = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
Data = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]

# What the input of a user causes; TensorFlow and TensorFlow Datasets raise the last two.
BAD_INPUT = (ValueError, OSError, ImportError, RuntimeError, tf.errors.OpError)


@settings
class DataOptions:
    """Options of the data."""

    data_dir: str | None = None  # folder with prepared TensorFlow Datasets
    test_split: str | None = None  # split to test on; the run's own by default, or else test
    label: str | None = None  # the feature of a TensorFlow Dataset that is to be predicted; the run's own, or label
    skip_corrupt: bool = False  # leave out image files that cannot be decoded

    def given(self, **others) -> dict[str, Any]:
        """These, but `skip_corrupt`, and others, as far as they have a value."""
        values = {"data_dir": self.data_dir, "test_split": self.test_split, "label": self.label, **others}
        return {name: value for name, value in values.items() if value is not None}


def in_words(error) -> str:
    """The message of an error; of one of TensorFlow or TensorFlow Datasets only the first line."""
    message = str(getattr(error, "message", None) or error).strip() or type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        message += ": an extra of keras-mixer installs it, see docs/troubleshooting.md"
    return with_addresses(message if isinstance(error, ValueError | OSError) else message.splitlines()[0])


def quoted(path) -> str:
    """A path as an argument of a command line to copy."""
    return shlex.quote(with_addresses(path))


def print_table(header, rows):
    """Prints left-aligned columns of text below a header."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, tuple("-" * width for width in widths), *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_data(options, content, header=(), rows=()) -> bool:
    """Prints the content if `--json` is given, writes rows for `--csv`; returns whether tables are still wanted."""
    if getattr(options, "csv", None) is not None:
        with atomic_write(options.csv) as path, open(path, "w", -1, "utf-8", "surrogateescape", "") as file:
            csv.writer(file).writerows([header, *rows])
    if options.json:
        print(json.dumps(to_jsonable_python(content, inf_nan_mode="null"), indent=2))
    return not options.json


def log_of(options):
    """Where a command with `--json` prints all else: standard error, to keep standard output JSON."""
    return functools.partial(print, file=sys.stderr) if options.json else print

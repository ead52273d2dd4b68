"""What the commands share: types of options, how options are parsed, how tables are printed."""

import contextlib
import functools
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from keras_mixer.variants import VARIANTS

Model = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Runs = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
Data = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
if TYPE_CHECKING:
    VariantName = str
else:
    VariantName = Literal[tuple(VARIANTS)]  # the choices that help lists

CONFIG = (tyro.conf.OmitArgPrefixes,)  # a switch is both --name and --no-name


def parse(function, command, arguments):
    """Calls a function with options parsed by its signature and docstring."""

    @functools.wraps(function, updated=())
    def call_later(*values, **options):  # outside of read_options, which captures what is printed
        return functools.partial(function, *values, **options)

    return read_options(call_later, command, arguments)()


def read_options(what, command, arguments, **options):
    """What a function returns for the options on the command line, or a dataclass of them.

    Raises:
        ValueError: an option or its value is wrong; tyro's message, which it would print in a box, as one line.
        SystemExit: help was asked for and printed.
    """
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(what, prog=f"keras-mixer {command}", args=arguments, config=CONFIG, **options)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(_without_box(printed.getvalue())) from None


def take_recipe(arguments, default):
    """The recipe that the first argument names, or the default, and the other arguments."""
    from keras_mixer.training.recipes import resolve  # with tyro alone, the other commands start without it

    if arguments and not arguments[0].startswith("-"):
        return resolve(arguments[0]), arguments[1:]
    return resolve(default), arguments


def _without_box(text):
    """The message in a box drawn by tyro, without its title, its borders and its hints about help."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()[1:-1]  # colours
    inside = "\n".join(line.strip("│| ") for line in lines)
    parts = (" ".join(part.split()) for part in re.split(r"^[─-]{3,}$", inside, flags=re.M))
    kept = [part for part in parts if part and not part.startswith(("For full help", "Argument help"))]
    return re.sub(r"^Error parsing \w+: ", "", ". ".join(kept)) or text  # another tyro may draw another box


def print_table(header, rows):
    """Prints columns of text, left-aligned, below a header."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, tuple("-" * width for width in widths), *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

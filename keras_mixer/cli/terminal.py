"""Shared by all commands: option types, option parsing, table printing."""

import contextlib
import functools
import inspect
import io
import re
import typing
from pathlib import Path
from typing import Annotated

import tyro

from keras_mixer.fields import check
from keras_mixer.storage import address_of, local_copy
from keras_mixer.weights.downloads import is_hub_address

Model = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
Run = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
Runs = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN...")]
Data = Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]

CONFIG = (tyro.conf.OmitArgPrefixes,)  # a flag has both --name and --no-name


def parse(function, command, arguments):
    """Calls a function with the options on the command line, as its signature and docstring describe them.

    Raises:
        ValueError: an option or its value is invalid.
    """
    annotations = typing.get_type_hints(function, include_extras=True)

    @functools.wraps(function, updated=())
    def call_later(*values, **options):  # runs outside read_options, which captures standard error
        bound = inspect.signature(function).bind(*values, **options).arguments
        return functools.partial(function, **{name: check(name, one, annotations[name]) for name, one in bound.items()})

    call = read_options(call_later, command, arguments)
    with contextlib.ExitStack() as copies:

        def local(name, value):
            if annotations[name] in (Model, Run, Runs):
                paths = [copies.enter_context(local_copy(path)) for path in ([value], value)[isinstance(value, tuple)]]
                return tuple(paths) if isinstance(value, tuple) else paths[0]
            if isinstance(value, Path) and address_of(value):
                raise ValueError(f"--{name.replace('_', '-')} must be a path on this machine, got {address_of(value)}.")
            return value

        bound = inspect.signature(function).bind(*call.args, **call.keywords)
        bound.arguments.update({name: local(name, value) for name, value in bound.arguments.items()})
        return function(*bound.args, **bound.kwargs)


def read_options(what, command, arguments, **options):
    """The result of a function, or a dataclass, for the options on the command line.

    Raises:
        ValueError: an option or its value is invalid; tyro's boxed message as one line.
        SystemExit: after printing help.
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
    """The text of a box drawn by tyro, without title, borders and hints about --help."""
    lines = re.sub(r"\x1b\[[\d;]*m", "", text).splitlines()[1:-1]  # colours
    inside = "\n".join(line.strip("│| ") for line in lines)
    parts = (" ".join(part.split()) for part in re.split(r"^[─-]{3,}$", inside, flags=re.M))
    kept = [part for part in parts if part and not part.startswith(("For full help", "Argument help"))]
    return re.sub(r"^Error parsing \w+: ", "", ". ".join(kept)) or text  # other versions of tyro may differ


def folder_of(model) -> Path:
    """The folder for the results of a command about a run directory or a file.

    Raises:
        ValueError: the model is on the Hugging Face Hub, so there is none.
    """
    if is_hub_address(model):
        raise ValueError("Expected --output PATH for a model on the Hugging Face Hub, got no --output.")
    return model if model.is_dir() else model.parent


def print_table(header, rows):
    """Prints left-aligned columns of text below a header."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, tuple("-" * width for width in widths), *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

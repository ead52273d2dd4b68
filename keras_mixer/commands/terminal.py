"""What the commands share: how options are parsed and how tables are printed."""

import tyro

from keras_mixer.training.recipes import resolve

CONFIG = (tyro.conf.OmitArgPrefixes,)  # a switch is both --name and --no-name


def parse(function, command, arguments):
    """Calls a function with options parsed by its signature and docstring."""
    return tyro.cli(function, prog=f"keras-mixer {command}", args=arguments, config=CONFIG)


def take_recipe(arguments, default):
    """The recipe that the first argument names, or the default, and the other arguments."""
    if arguments and not arguments[0].startswith("-"):
        return resolve(arguments[0]), arguments[1:]
    return resolve(default), arguments


def print_table(header, rows):
    """Prints columns of text, left-aligned, below a header."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, tuple("-" * width for width in widths), *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())

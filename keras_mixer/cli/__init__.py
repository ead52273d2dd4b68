"""The command line: finds the command, runs it, and prints errors as one line.

A command is a class in a file of this folder: its fields are the options, what is written next to them is their help,
and calling it runs it. `keras_mixer_command` has the table of all commands. A file imports only what its commands need,
so that other commands start faster.
"""

import importlib
import sys

import tyro

from keras_mixer.cli.terminal import BAD_INPUT, in_words
from keras_mixer_command import COMMANDS, FAILED

CANCELLED = 130  # exit status of a program interrupted by Ctrl-C


def main(arguments) -> int:
    """Runs a command with its options; returns the exit status, or exits as tyro does."""
    try:
        return run(arguments[0], arguments[1:]) or 0
    except BAD_INPUT as error:
        print(f"error: {in_words(error)}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt as stop:
        resume = " Rerun the same command to resume." if arguments[0] in ("train", "sweep") else ""
        print(f"\n{str(stop).capitalize() or 'Interrupted'}.{resume}", file=sys.stderr)
        return CANCELLED


def run(command, arguments) -> int | None:
    """Runs a command with the options on the command line; returns its exit status, None for 0."""
    kind = getattr(importlib.import_module(f"keras_mixer.cli.{COMMANDS[command][0]}"), command.capitalize())
    arguments, defaults = kind.take_recipe(arguments) if hasattr(kind, "take_recipe") else (arguments, {})
    config = (tyro.conf.OmitArgPrefixes,)  # a switch has both --name and --no-name
    return tyro.cli(kind, prog=f"keras-mixer {command}", args=arguments, config=config, **defaults)()

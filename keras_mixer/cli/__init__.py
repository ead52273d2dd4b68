"""The command line: finds the subcommand and prints errors as one line.

A subcommand is a function in a file of this folder: its signature defines the options and its docstring the help. The
table below maps each command to its file and its line in the overview. Functions import what only they need, so that
other commands start faster.
"""

import importlib
import sys

import keras_mixer

CANCELLED = 130  # exit status of a program interrupted by Ctrl-C
FAILED = 2
COMMANDS = {
    "variants": ("look", "List the published sizes with parameters and cost."),
    "train": ("train", "Train a recipe, or resume it: train [RECIPE]."),
    "sweep": ("train", "Compare learning rates on held-out training data, then train: sweep [RECIPE]."),
    "evaluate": ("use", "Evaluate a finished run on its test data: evaluate RUN."),
    "fewshot": ("use", "Few-shot accuracy of a model's features: fewshot MODEL DATA."),
    "imagenet": ("use", "ImageNet, ReaL and ImageNet-V2 accuracy of a classifier: imagenet MODEL."),
    "report": ("look", "Write an HTML report on finished runs: report RUN..."),
    "card": ("look", "Write a model card of a finished run: card RUN."),
    "predict": ("use", "Classify image files: predict MODEL IMAGE..."),
    "export": ("export", "Export a run for other runtimes: export RUN --format FORMAT."),
    "convert": ("export", "Convert a weight file to another format: convert IN OUT."),
    "features": ("use", "Extract the features of a data set: features MODEL DATA."),
    "saliency": ("look", "Show which regions of an image support a class: saliency MODEL IMAGE."),
}
FROM_RECIPE = ("train", "sweep")  # these parse their own options, because the recipe sets the defaults


def main(arguments=None) -> int:
    """Runs `keras-mixer` with the given arguments (default: those of the process); returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print("keras-mixer: MLP-Mixer for Keras 3\n")
        print("usage: keras-mixer COMMAND [OPTIONS]; COMMAND --help lists its options")
        print("       keras-mixer --version\n")
        _print_lines(COMMANDS)
        return 0 if arguments else FAILED
    if arguments[0] == "--version":
        print(f"keras-mixer {keras_mixer.__version__}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        return _fail(f"Unknown command {command!r}; valid ones are {', '.join(COMMANDS)}.")
    try:
        return run(command, rest) or 0
    except (ValueError, OSError) as error:
        return _fail(str(error))
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop).capitalize() or 'Interrupted'}. Rerun the same command to resume.", file=sys.stderr)
        return CANCELLED


def run(command, arguments) -> int | None:
    """Calls the function of a command with the options on the command line; returns its exit status, None for 0.

    Raises:
        ValueError: an option or its value is invalid, or the command fails.
        SystemExit: after printing help.
    """
    function = getattr(importlib.import_module(f"keras_mixer.cli.{COMMANDS[command][0]}"), command)
    if command in FROM_RECIPE:
        return function(arguments)
    from keras_mixer.cli.terminal import parse  # imports tyro, which the overview does not need

    return parse(function, command, arguments)


def _print_lines(table):
    width = max(map(len, table)) + 1
    for name, (_, line) in table.items():
        print(f"  {name:{width}} {line}")


def _fail(message):
    print(f"error: {message}", file=sys.stderr)
    return FAILED

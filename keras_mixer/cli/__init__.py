"""The command line: finds the subcommand and turns errors into one line.

A subcommand is a function of a file in this folder: its signature gives the options and its docstring the help. The
tables below name the file and hold the line of the overview. A command imports in its function what only it needs, so
that the others start without it.
"""

import importlib
import sys

import keras_mixer

CANCELLED = 130  # what shells report for a program ended by Ctrl-C
FAILED = 2
COMMANDS = {
    "variants": ("look", "List the published sizes with parameters and cost."),
    "train": ("train", "Train a recipe, or resume it: train [RECIPE]."),
    "sweep": ("train", "Try learning rates on held-out training data, then train: sweep [RECIPE]."),
    "compile": ("compile_only", "Compile a recipe for TPUs or GPUs that need not exist: compile [RECIPE]."),
    "evaluate": ("use", "Measure a finished run on its test data: evaluate RUN."),
    "fewshot": ("use", "Few-shot accuracy of a model's features: fewshot MODEL DATA."),
    "imagenet": ("paper", "ImageNet, ReaL and ImageNet-V2 accuracy of a classifier: imagenet MODEL."),
    "avg5": ("paper", "Avg 5 of the paper from finished runs: avg5 RUN..."),
    "vtab": ("experiments", "VTAB-1k of a pre-trained model: vtab MODEL."),
    "plot": ("", "Figures and experiments of the paper: plot NAME."),  # the file is that of the plot
    "report": ("look", "One HTML page about finished runs: report RUN..."),
    "benchmark": ("look", "Measure speed on this machine, relative to its matrix product."),
    "predict": ("use", "Classify image files: predict MODEL IMAGE..."),
    "export": ("export", "Write a run for other runtimes: export RUN --format FORMAT."),
    "convert": ("export", "Turn a weight file into another format: convert IN OUT."),
    "features": ("use", "Write what a model computes inside for a data set: features MODEL DATA."),
    "saliency": ("look", "Show which regions of an image support its class: saliency MODEL IMAGE."),
}
PLOTS = {
    "weights": ("look", "Figs 5, 6: hidden units of the token-mixing MLPs: plot weights MODEL."),
    "stem": ("look", "Fig 7: filters of the stem: plot stem MODEL."),
    "permutation": ("experiments", "Fig 4: Mixer and ResNet on images with shuffled pixels."),
    "throughput": ("look", "Parameters, multiply-accumulates, images per second, memory: plot throughput MODEL..."),
    "pareto": ("paper", "Figs 2, 3: accuracy against speed and pre-training cost, Tables 2 and 3."),
    "linear-cost": ("paper", "Cost over the number of patches, Mixer compared with attention."),
    "data-size": ("experiments", "Fig 2, right: accuracy over the amount of training data, equal steps."),
    "untied": ("experiments", "Appendix A: token mixing shared by all channels, by groups, by none."),
}
# A recipe gives the defaults, so these parse what follows its name themselves.
FROM_RECIPE = ("train", "sweep", "compile")


def main(arguments=None) -> int:
    """Runs `keras-mixer` with the given arguments, those of the process by default; returns the exit status."""
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
        run(command, rest)
    except (ValueError, OSError) as error:
        return _fail(str(error))
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop).capitalize() or 'Interrupted'}. Rerun the same command to resume.", file=sys.stderr)
        return CANCELLED
    return 0


def run(command, arguments):
    """Calls the function of a command with the options on the command line.

    Raises:
        ValueError: an option or its value is wrong, or the command fails.
        SystemExit: help was asked for and printed.
    """
    if command != "plot":
        _call(COMMANDS[command][0], command, command, arguments)
        return
    if not arguments or arguments[0] in ("-h", "--help"):
        print("usage: keras-mixer plot NAME [OPTIONS]; NAME --help lists its options\n")
        _print_lines(PLOTS)
        if arguments:
            raise SystemExit(0)
        raise ValueError("Name a plot.")
    name, *rest = arguments
    if name not in PLOTS:
        raise ValueError(f"Unknown plot {name!r}; valid ones are {', '.join(PLOTS)}.")
    _call(PLOTS[name][0], name, f"plot {name}", rest)


def _call(file, name, command, arguments):
    function = getattr(importlib.import_module(f"keras_mixer.cli.{file}"), name.replace("-", "_"))
    if name in FROM_RECIPE:
        function(arguments)
        return
    from keras_mixer.cli.terminal import parse  # with tyro, which the overview does without

    parse(function, command, arguments)


def _print_lines(table):
    width = max(map(len, table)) + 1
    for name, (_, line) in table.items():
        print(f"  {name:{width}} {line}")


def _fail(message):
    print(f"error: {message}", file=sys.stderr)
    return FAILED

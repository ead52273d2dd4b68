"""The command line: finds the subcommand and turns errors into one line."""

import importlib
import sys

import keras_mixer

CANCELLED = 130  # what shells report for a program ended by Ctrl-C
FAILED = 2
COMMANDS = {
    "variants": "List the published sizes with parameters and cost.",
    "train": "Train a recipe, or resume it: train [RECIPE].",
    "sweep": "Try learning rates on held-out training data, then train: sweep [RECIPE].",
    "evaluate": "Measure a finished run on its test data: evaluate RUN.",
    "fewshot": "Few-shot accuracy of a model's features: fewshot MODEL DATA.",
    "imagenet": "ImageNet, ReaL and ImageNet-V2 accuracy of a classifier: imagenet MODEL.",
    "avg5": "Avg 5 of the paper from finished runs: avg5 RUN...",
    "vtab": "VTAB-1k of a pre-trained model: vtab MODEL.",
    "plot": "Pictures and experiments of the paper: plot NAME.",
    "report": "One HTML page about finished runs: report RUN...",
    "benchmark": "Measure speed on this machine against its own limit.",
    "predict": "Classify image files: predict MODEL IMAGE...",
    "export": "Write a run for other runtimes: export RUN --format FORMAT.",
    "convert": "Turn a weight file into another format: convert IN OUT.",
    "features": "Write what a model computes inside for a data set: features MODEL DATA.",
    "saliency": "Picture what in an image speaks for its class: saliency MODEL IMAGE.",
}


def main(arguments=None) -> int:
    """Runs `keras-mixer` with the given arguments, those of the process by default; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        _print_overview()
        return 0 if arguments else FAILED
    if arguments[0] == "--version":
        print(f"keras-mixer {keras_mixer.__version__}")
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        return _fail(f"Unknown command {command!r}; valid ones are {', '.join(COMMANDS)}.")
    try:
        importlib.import_module(f"keras_mixer.commands.{command}").run(rest)  # only what this command needs
    except (ValueError, OSError) as error:
        return _fail(str(error))
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop).capitalize() or 'Interrupted'}. Type the same command again to go on.", file=sys.stderr)
        return CANCELLED
    return 0


def _print_overview():
    print(
        "keras-mixer: MLP-Mixer for Keras 3\n\nusage: keras-mixer COMMAND [OPTIONS]; COMMAND --help lists its options\n"
        "       keras-mixer --version\n"
    )
    for name, description in COMMANDS.items():
        print(f"  {name:10} {description}")


def _fail(message):
    print(f"error: {message}", file=sys.stderr)
    return FAILED

"""`keras-mixer`: answers `--help`, `--version` and a wrong command at once, all else by `keras_mixer.cli`.

A module next to the package, because importing anything in the package imports TensorFlow, which takes seconds and
writes messages to standard error. Only the command hides them: `import keras_mixer` changes neither the environment nor
standard error.
"""

import contextlib
import faulthandler
import importlib.metadata
import os
import re
import sys
import tempfile
import warnings

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"  # TensorFlow's and JAX's: 0 shows everything, 1 warnings and errors
# What TensorFlow 2.21 writes at every level: absl's notice, and information (I, not W, E or F) logged before absl runs.
STARTUP_MESSAGE = re.compile(rb"WARNING: All log messages before absl::InitializeLog\(\)|I\d{4} \d\d:\d\d:")
FAILED = 2  # exit status
GROUPS = {  # the commands, with the file of keras_mixer/cli that has them and their line in the overview
    "Training": {
        "train": ("train", "Train a recipe, or resume it: train [RECIPE]."),
        "sweep": ("train", "Compare learning rates on held-out training data, then train: sweep [RECIPE]."),
    },
    "Evaluation": {
        "evaluate": ("evaluate", "Evaluate a run on its test data, or any model on other data: evaluate MODEL."),
        "fewshot": ("evaluate", "Few-shot accuracy of a model's features: fewshot MODEL DATA."),
        "imagenet": ("evaluate", "ImageNet, ReaL and ImageNet-V2 accuracy of a classifier: imagenet MODEL."),
        "report": ("look", "Write an HTML report on finished runs: report RUN..."),
    },
    "Use": {
        "predict": ("predict", "Classify image files and folders: predict MODEL IMAGE..."),
        "features": ("evaluate", "Extract the features of a data set: features MODEL DATA."),
        "saliency": ("look", "Show which regions of an image support a class: saliency MODEL IMAGE."),
    },
    "Export and sharing": {
        "export": ("export", "Export a run for other runtimes: export RUN --format FORMAT."),
        "convert": ("export", "Convert a weight file to another format: convert IN OUT."),
        "card": ("look", "Write a model card of a finished run: card RUN."),
    },
    "Sizes": {
        "variants": ("look", "List the published sizes with parameters and cost."),
    },
}
COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}


def main() -> int:
    """Runs the command line; a user who sets `TF_CPP_MIN_LOG_LEVEL` sees what TensorFlow writes at that level."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # not all names fit the terminal
    status = answer(sys.argv[1:])
    if status is not None:
        return status
    quiet = LOG_LEVEL not in os.environ
    os.environ.setdefault(LOG_LEVEL, "1")
    if sys.argv[1] == "export":
        os.environ["KERAS_BACKEND"] = "tensorflow"  # it writes all exports, and opens what was trained on JAX
    if sys.argv[1] in ("evaluate", "predict"):  # they change no weights; benchmarks/README.md has the gain
        os.environ.setdefault("TF_ONEDNN_ASSUME_FROZEN_WEIGHTS", "1")
    warnings.formatwarning = lambda message, *place: f"warning: {message}\n"
    with without_startup_messages() if quiet else contextlib.nullcontext():
        with contextlib.suppress(ImportError):  # reported by the commands that need it
            import tensorflow  # noqa: F401 - on JAX, Keras does not import it, but reading images does
        from keras_mixer import cli
    return cli.main(sys.argv[1:])


def answer(arguments) -> int | None:
    """Prints the overview, the version or what is wrong with a command, and returns the status; None for a command."""
    command = arguments[0] if arguments else "--help"
    if command in ("-h", "--help"):
        print("keras-mixer: MLP-Mixer for Keras 3\n")
        print("usage: keras-mixer COMMAND [OPTIONS]; COMMAND --help lists its options")
        print("       keras-mixer --version")
        width = max(map(len, COMMANDS))
        for group, commands in GROUPS.items():
            lines = [f"  {name:{width}}  {line}" for name, (_, line) in commands.items()]
            print(f"\n{group}:", *lines, sep="\n")
        return 0 if arguments else FAILED
    if command == "--version":
        print(f"keras-mixer {importlib.metadata.version('keras-mixer')}")
        return 0
    if command not in COMMANDS:
        print(f"error: Unknown command {command!r}; valid ones are {', '.join(COMMANDS)}.", file=sys.stderr)
        return FAILED
    return None


@contextlib.contextmanager
def without_startup_messages():
    """Drops start-up messages from what the block writes to standard error, from C++ too; shows the rest at its end.

    If the block crashes the interpreter, as TensorFlow does on a CPU without AVX, Python says where, and
    `TF_CPP_MIN_LOG_LEVEL=0` says why.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    faulthandler.enable(terminal)
    with tempfile.TemporaryFile() as written:
        os.dup2(written.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
            faulthandler.enable(2)
            written.seek(0)
            os.write(2, b"".join(line for line in written if not STARTUP_MESSAGE.match(line)))


if __name__ == "__main__":
    sys.exit(main())

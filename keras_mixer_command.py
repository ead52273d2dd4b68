"""`keras-mixer`: keeps TensorFlow's start-up messages off the terminal, then runs `keras_mixer.cli`.

A module next to the package, because TensorFlow writes while it is imported, and importing anything in the package
imports it. Only the command does this: `import keras_mixer` changes neither the environment nor standard error.
"""

import contextlib
import os
import re
import signal
import sys

LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"  # TensorFlow's and JAX's: 0 shows everything, 1 warnings and errors
# What TensorFlow 2.21 writes at every level: absl's notice, and information (I, not W, E or F) logged before absl runs.
STARTUP_MESSAGE = re.compile(rb"WARNING: All log messages before absl::InitializeLog\(\)|I\d{4} \d\d:\d\d:")


def main() -> int:
    """Runs the command line; a user who sets `TF_CPP_MIN_LOG_LEVEL` sees what TensorFlow writes at that level."""
    quiet = LOG_LEVEL not in os.environ
    os.environ.setdefault(LOG_LEVEL, "1")
    if sys.argv[1:2] == ["export"]:
        os.environ["KERAS_BACKEND"] = "tensorflow"  # it writes all exports, and opens what was trained on JAX
    with without_startup_messages() if quiet and hasattr(os, "fork") else contextlib.nullcontext():
        with contextlib.suppress(ImportError):  # reported by the commands that need it
            import tensorflow  # noqa: F401 - on JAX, Keras does not import it, but reading images does
        from keras_mixer import cli
    return cli.main()


@contextlib.contextmanager
def without_startup_messages():
    """Drops start-up messages from all that the block writes to standard error, from C++ too; POSIX only.

    A process of its own filters the lines: if the block crashes the interpreter, as TensorFlow does on a CPU without
    AVX, the reason is still shown.
    """
    terminal = os.dup(2)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the block, and so the filter
        os.close(writer)
        with os.fdopen(reader, "rb") as lines:
            for line in lines:
                if not STARTUP_MESSAGE.match(line):
                    os.write(2, line)
        os._exit(0)
    os.close(reader)
    os.dup2(writer, 2)
    os.close(writer)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(terminal, 2)  # closes the pipe
        os.close(terminal)
        os.waitpid(child, 0)


if __name__ == "__main__":
    sys.exit(main())

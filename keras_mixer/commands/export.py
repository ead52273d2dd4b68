"""Write a run for other runtimes: export RUN --format FORMAT."""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_mixer.commands.terminal import parse
from keras_mixer.export.saved_model import export_saved_model
from keras_mixer.export.tflite import export_tflite
from keras_mixer.serving.predictor import load_classifier


def run(arguments):
    """Write a run for other runtimes: export RUN --format FORMAT."""
    parse(export, "export", arguments)


def export(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")],
    format: Literal["saved_model", "tflite"] = "saved_model",
    output: Path | None = None,
):
    """Write a finished run as a SavedModel (for TensorFlow Serving) or a TFLite file (for devices).

    Args:
        run: folder of a finished run, or a .keras file.
        format: kind of file.
        output: where to write: for saved_model the folder that holds the versions (RUN/export/saved_model by
            default), for tflite the file (RUN/export/model.tflite by default).
    """
    model = load_classifier(run)
    folder = run if run.is_dir() else run.parent
    if format == "saved_model":
        written = export_saved_model(model, output or folder / "export" / "saved_model")
    else:
        written = export_tflite(model, output or folder / "export" / "model.tflite")
    files = [file for file in written.rglob("*") if file.is_file()] if written.is_dir() else [written]
    print(f"Written: {written} ({sum(file.stat().st_size for file in files) / 1e6:.2f} MB)")
    print(f"Next:\n  keras-mixer predict {written} IMAGE...")

"""One stage of `waits.py` with this package: `ours_waits.py STAGE PHOTOGRAPHS RESULTS`."""

import sys
from pathlib import Path


def command(*arguments):
    """Runs the command line of this package."""
    from keras_mixer.cli import main

    if status := main([str(argument) for argument in arguments]):
        raise SystemExit(status)


def main(stage, photographs, results):
    """Runs one stage; every import is part of what is measured."""
    if stage == "import":
        import keras  # noqa: F401 - what a user of the package imports too

        import keras_mixer
    if stage == "build":
        import keras_mixer

        keras_mixer.MixerB16(weights=None)
    if stage == "first_step":
        from speed import Case, prepare

        prepare(Case("train", "B/16", 16))()
    if stage == "epoch":
        data = ["--data", photographs, "--workdir", results / "run", "--epochs", "1", "--global-batch-size", "32"]
        model = ["--variant", "S/32", "--precision", "float32", "--weights", "None", "--steps", "None"]
        optimizer = ["--optimizer", "adamw", "--learning-rate", "0.001", "--warmup-steps", "10"]
        command("train", "finetune", *data, *model, *optimizer)
    if stage == "evaluation":
        command("evaluate", results / "run")
    if stage == "export":
        command("export", results / "run", "--format", "saved_model", "--output", results / "saved_model")
    if stage == "first_answer":
        image = next(Path(photographs, "test").rglob("*.jpg"))
        command("predict", results / "saved_model" / "1", image)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))

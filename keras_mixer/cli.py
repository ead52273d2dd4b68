"""The command line: parse, call, print."""

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_mixer.training.recipes import RECIPES, Recipe, resolve
from keras_mixer.variants import VARIANTS

CANCELLED = 130  # what shells report for a program ended by Ctrl-C
FAILED = 2


def main(arguments=None) -> int:
    """Runs `keras-mixer` with the given arguments, those of the process by default; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        _print_overview()
        return 0 if arguments else FAILED
    command, *rest = arguments
    if command not in COMMANDS:
        return _fail(f"Unknown command {command!r}; valid ones are {', '.join(COMMANDS)}.")
    try:
        COMMANDS[command](rest)
    except (ValueError, OSError) as error:
        return _fail(str(error))
    except KeyboardInterrupt as stop:
        print(f"\n{str(stop).capitalize() or 'Interrupted'}. Type the same command again to go on.", file=sys.stderr)
        return CANCELLED
    return 0


def _print_overview():
    print(
        "keras-mixer: MLP-Mixer for Keras 3\n\nusage: keras-mixer COMMAND [OPTIONS]; COMMAND --help lists its options\n"
    )
    for name, command in COMMANDS.items():
        print(f"  {name:10} {command.__doc__}")


def _fail(message):
    print(f"error: {message}", file=sys.stderr)
    return FAILED


def _parse(function, command, arguments):
    return tyro.cli(
        function,
        prog=f"keras-mixer {command}",
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )


def _variants(arguments):
    """List the published sizes with parameters and cost."""

    def variants(image_size: int = 224, classes: int = 1000):
        """List the seven sizes of Table 1.

        Args:
            image_size: side of the image in pixels; sizes whose patch does not divide it are marked.
            classes: outputs of the head; 0 leaves it out.
        """
        rows = []
        for name, variant in VARIANTS.items():
            try:
                shape = (image_size, image_size, 3)
                cost = (f"{variant.parameters(shape, classes):,}", f"{variant.macs(shape, classes) / 1e9:.3f}")
            except ValueError:
                cost = ("-", "-")
            rows.append((name, *map(str, dataclasses.astuple(variant)), *cost))
        header = ("variant", "patch", "blocks", "hidden", "tokens", "channels", "parameters", "GMACs")
        _print_table(header, rows)

    _parse(variants, "variants", arguments)


@dataclasses.dataclass(frozen=True)
class _Training:
    recipe: Recipe
    workdir: Path | None = None
    """Folder of the run; runs/NAME by default. Call again in the same way to resume."""
    skip_corrupt: bool = False
    """Leave image files out that cannot be decoded, instead of stopping."""


def _train(arguments):
    """Train a recipe, or resume it: train [RECIPE]."""
    name = "digits"
    if arguments and not arguments[0].startswith("-"):
        name, *arguments = arguments
    default = _Training(resolve(name))
    options = tyro.cli(
        _Training,
        prog=f"keras-mixer train {name}",
        description=f"Train recipe {name!r}; all recipes: {', '.join(RECIPES)}. Defaults below are the recipe's.",
        default=default,
        args=arguments,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    from keras_mixer.training.loop import fit

    began = time.perf_counter()
    workdir = options.workdir or Path("runs", options.recipe.name)
    result = fit(options.recipe, workdir=workdir, skip_corrupt=options.skip_corrupt)
    metrics = result.metrics
    _print_table(
        ("test accuracy", "top-5", "loss", "images", "crop", "parameters", "training", "command"),
        [
            (
                f"{metrics['accuracy']:.2%}",
                f"{metrics['top5']:.2%}",
                f"{metrics['loss']:.4f}",
                str(metrics["test_images"]),
                metrics["evaluation_crop"],
                f"{metrics['parameters']:,}",
                f"{metrics['seconds']:.0f} s",
                f"{time.perf_counter() - began:.0f} s",
            )
        ],
    )
    print(f"\nNext:\n  keras-mixer evaluate {workdir}\n  keras-mixer predict {workdir} IMAGE...")
    print(f"  keras-mixer export {workdir} --format saved_model\n  tensorboard --logdir {workdir}/tensorboard")


def _evaluate(arguments):
    """Measure a finished run on its test data: evaluate RUN."""

    def evaluate(
        run: Annotated[Path, tyro.conf.Positional],
        data: str | None = None,
        data_dir: str | None = None,
        test_split: str | None = None,
        skip_corrupt: bool = False,
    ):
        """Measure a finished run on its test data, or on other data with the same classes.

        Args:
            run: folder of a finished run.
            data: image folder or TensorFlow Datasets name; the run's own by default.
            data_dir: folder with prepared TensorFlow Datasets.
            test_split: which part; the run's own by default.
            skip_corrupt: leave image files out that cannot be decoded.
        """
        from keras_mixer.serving.predictor import load_classifier
        from keras_mixer.training.loop import evaluate_source, load_recipe_source
        from keras_mixer.training.run_directory import read_recipe

        given = {"data": data, "data_dir": data_dir, "test_split": test_split}
        model = load_classifier(run)
        recipe = resolve(read_recipe(run), **{key: value for key, value in given.items() if value is not None})
        source = load_recipe_source(recipe, skip_corrupt)
        result = evaluate_source(model, source, recipe, progress=True)
        height, width, _ = recipe.input_shape()
        _print_table(
            ("top-1", "top-5", "loss", "images", "crop", "input"),
            [
                (
                    f"{result.top1:.2%}",
                    f"{result.top5:.2%}",
                    f"{result.loss:.4f}",
                    str(result.examples),
                    recipe.evaluation_crop,
                    f"{height} x {width}",
                )
            ],
        )
        per_class = dict(zip(source.class_names, result.per_class().tolist(), strict=True))
        _print_table(("class", "accuracy"), [(name, f"{share:.2%}") for name, share in per_class.items()])
        content = {
            "accuracy": result.top1,
            "top5": result.top5,
            "loss": result.loss,
            "test_images": result.examples,
            "data": source.name,
            "evaluation_crop": recipe.evaluation_crop,
            "per_class": {name: None if share != share else share for name, share in per_class.items()},
            "confusion": result.confusion.tolist(),
        }
        file = run / "evaluation.json"
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print(f"\nWritten to {file}.")

    _parse(evaluate, "evaluate", arguments)


def _predict(arguments):
    """Classify image files: predict MODEL IMAGE..."""

    def predict(
        model: Annotated[Path, tyro.conf.Positional],
        images: Annotated[tuple[Path, ...], tyro.conf.Positional],
        top_k: int = 5,
        json_output: Annotated[bool, tyro.conf.arg(name="json")] = False,
    ):
        """Classify image files.

        Args:
            model: a run directory, a .keras file, a SavedModel or a .tflite file.
            images: JPEG, PNG, GIF, BMP or WebP files.
            top_k: how many classes to show for each image.
            json_output: print a JSON list instead of a table.
        """
        from keras_mixer.serving.predictor import load_predictor

        if not images:
            raise ValueError("Name at least one image file.")
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {top_k}.")
        predictor = load_predictor(model)
        predictions = [predictor.predict(image, top_k) for image in images]
        if json_output:
            print(json.dumps([dataclasses.asdict(prediction) for prediction in predictions], indent=2))
            return
        rows = [
            (prediction.image if rank == 0 else "", label, f"{probability:.2%}")
            for prediction in predictions
            for rank, (label, probability) in enumerate(zip(prediction.labels, prediction.probabilities, strict=True))
        ]
        _print_table(("image", "class", "probability"), rows)

    _parse(predict, "predict", arguments)


def _export(arguments):
    """Write a run for other runtimes: export RUN --format FORMAT."""

    def export(
        run: Annotated[Path, tyro.conf.Positional],
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
        from keras_mixer.export.saved_model import export_saved_model
        from keras_mixer.export.tflite import export_tflite
        from keras_mixer.serving.predictor import load_classifier

        model = load_classifier(run)
        folder = run if run.is_dir() else run.parent
        if format == "saved_model":
            written = export_saved_model(model, output or folder / "export" / "saved_model")
        else:
            written = export_tflite(model, output or folder / "export" / "model.tflite")
        files = [file for file in written.rglob("*") if file.is_file()] if written.is_dir() else [written]
        print(f"Written: {written} ({sum(file.stat().st_size for file in files) / 1e6:.2f} MB)")
        print(f"Next:\n  keras-mixer predict {written} IMAGE...")

    _parse(export, "export", arguments)


def _print_table(header, rows):
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, tuple("-" * width for width in widths), *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


COMMANDS = {
    "variants": _variants,
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
}

"""The command compile: compiles a recipe for a TPU slice or GPUs that need not be present; options as in train."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from keras_mixer.cli.terminal import print_table, read_options, take_recipe
from keras_mixer.fields import Count, Where, check_fields
from keras_mixer.files import refuse_existing, write_json
from keras_mixer.training.compile_process import compile_only
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.recipes import RECIPES
from keras_mixer.training.topologies import TOPOLOGIES

SHOWN = 20  # rows of traffic; the JSON has all
PROVES = (
    "The compiler lowered and partitioned this step and checked its memory. The step was not run: this says nothing "
    "about speed or the values it computes."
)


@dataclasses.dataclass(frozen=True)
class Compilation:
    """The options of a compilation."""

    recipe: Recipe
    topology: Annotated[str, Where(f"one of {', '.join(TOPOLOGIES)}", TOPOLOGIES.__contains__)] = "v5e-1"
    """Chips to compile for: v5e-1 (Colab), v5e-4, v5e-8 (Kaggle), v5e-16 to v5e-256, v6e-1 to v6e-256, v4-8, v5p-8;
    GPUs: h100-1, h100-8."""
    classes: Count | None = None
    """Outputs of the head, at least 1; known for digits and the recipes' data sets."""
    step: Literal["train", "evaluate", "features"] = "train"
    """The step that fit runs on each batch, that of its validation, or the feature extractor (pre_logits)."""
    largest_batch: bool = False
    """Search the largest global batch that fits, without rematerialization and with it."""
    output: Path | None = None
    """Write the reports as JSON to this file, which must not exist."""
    details: bool = False
    """Also report the memory traffic by layer and operation, main and on-chip memory apart."""

    def __post_init__(self):
        check_fields(self)


def compile(arguments):
    """Parses the options, compiles, and prints the report of the compiler."""
    recipe, arguments = take_recipe(arguments, "digits")
    options = read_options(
        Compilation,
        f"compile {recipe.name}",
        arguments,
        description=f"Compile the step of recipe {recipe.name!r} for chips that need not be present. All recipes: "
        f"{', '.join(RECIPES)}. Defaults are the recipe's.",
        default=Compilation(recipe),
    )
    if options.output:
        refuse_existing(options.output)
    reports = _largest_batches(options) if options.largest_batch else _one(options)
    print(f"\n{PROVES}")
    if options.output:
        write_json(options.output, [dataclasses.asdict(report) for report in reports])


def _compiled(options, recipe):
    return compile_only(
        recipe,
        options.topology,
        classes=options.classes,
        step=options.step,
        largest_batch=options.largest_batch,
        details=options.details,
    )


def _one(options):
    (report,) = _compiled(options, options.recipe)
    header = (f"{report.recipe}, {report.step}", f"{report.topology}: {report.chips} x {report.device_kind}")
    print_table(header, _rows(report))
    if report.traffic:
        shown = report.traffic[:SHOWN]
        print()
        print_table(
            ("layer, direction", "operation", "count", "main memory", "on chip", "cycles, estimated"),
            [
                (
                    row["source"],
                    row["operation"],
                    f"{row['count']:,}",
                    f"{row['hbm_bytes'] / 1e9:.3f} GB",
                    f"{row['on_chip_bytes'] / 1e9:.3f} GB",
                    f"{row['estimated_cycles'] / 1e6:.2f} M",
                )
                for row in shown
            ],
        )
    if not report.fits:
        print(f"\n{report.problem or ''}\nIt does not fit. Use {_ways_out(options.recipe)}.")
    return [report]


def _rows(report):
    rows = [
        ("images per chip", f"{report.images_per_chip:,} of {report.global_batch_size:,} per step"),
        ("fits", "yes" if report.fits else "no"),
        ("memory per chip", f"{_size(report.hbm_bytes)} of {_size(report.hbm_limit_bytes)}"),
    ]
    if report.temp_bytes is not None:
        rows += [
            ("- arguments (weights, optimizer, batch)", _size(report.argument_bytes)),
            ("- temporaries (activations)", _size(report.temp_bytes)),
            ("- outputs; in place of arguments", f"{_size(report.output_bytes)}; {_size(report.alias_bytes)}"),
            ("- code", _size(report.code_bytes)),
        ]
    if report.flops:
        part = f"one of {report.accumulation_steps} pieces" if report.accumulation_steps > 1 else "step"
        rows += [
            (
                f"FLOPs per chip and {part}",
                f"{report.flops:.4g}, {report.flops / report.model_flops:.3f} of the formula",
            ),
            ("bytes accessed, main and on-chip memory", f"{report.bytes_accessed / 1e9:.1f} GB"),
        ]
    if report.copies is not None:
        rows += [
            ("bytes in main memory, by the layouts", f"{report.hbm_traffic_bytes / 1e9:.1f} GB"),
            ("all-reduces, all-gathers", f"{report.all_reduces}, {report.all_gathers}"),
            ("copies, fusions", f"{report.copies}, {report.fusions}"),
        ]
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return [*rows, ("compiling", f"{report.compile_seconds:.0f} s"), ("versions", versions)]


def _size(count):
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"


def _verdict(report):
    flops = f", {report.flops / report.model_flops:.2f} of the formula's FLOPs" if report.flops else ""
    return f"fits{flops}" if report.fits else "does not fit"


def _ways_out(recipe):
    ways = ["a smaller --global-batch-size (see --largest-batch)", "--accumulation-steps", "more chips"]
    if not recipe.rematerialize and not recipe.dropout_rate:
        ways.insert(1, "--rematerialize")
    if recipe.precision == "float32":
        ways.insert(1, "--precision mixed_bfloat16")
    return ", ".join(ways[:-1]) + f" or {ways[-1]}"


def _largest_batches(options):
    recipes = [dataclasses.replace(options.recipe, rematerialize=False)]
    if not options.recipe.dropout_rate and options.step == "train":
        recipes.append(dataclasses.replace(options.recipe, rematerialize=True))
    reports = []
    for recipe in recipes:
        for report in _compiled(options, recipe):
            reports.append(report)
            how = f"{report.global_batch_size:,} images{', rematerialized' if report.rematerialize else ''}"
            print(f"{how}: {_verdict(report)}", flush=True)
    rows = []
    for recipe in recipes:
        tried = [report for report in reports if report.fits and report.rematerialize == recipe.rematerialize]
        largest = max(tried, key=lambda report: report.global_batch_size, default=None)
        cells = ("none", "-", "-", "-")
        if largest:
            size = _size(largest.hbm_bytes)
            cells = (f"{largest.global_batch_size:,}", f"{largest.images_per_chip:,}", size, _verdict(largest))
        rows.append(("yes" if recipe.rematerialize else "no", *cells))
    print()
    columns = ("largest global batch", "per chip", "memory per chip", "result")
    print_table(("rematerialize", *columns), rows)
    return reports

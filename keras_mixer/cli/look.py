"""Looking at models: variants, benchmark, saliency, report, plot weights, plot stem, plot throughput."""

import dataclasses
import platform
from pathlib import Path
from typing import Annotated, Any, Literal

import keras
import numpy as np
import tyro

from keras_mixer.cli.terminal import Model, Runs, VariantName, print_table
from keras_mixer.files import refuse_existing, write_json
from keras_mixer.inspect.figures import check_picture_path, write_figure
from keras_mixer.models import Mixer, blocks_of
from keras_mixer.variants import VARIANTS


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
    print_table(header, rows)


def benchmark(
    variants: tuple[VariantName, ...] = ("S/32", "B/16"),
    precisions: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16"),
    image_size: int = 224,
    seconds: float = 10.0,
    output: Path | None = None,
):
    """Time forward passes and training steps beside the machine's matrix product, in turn, in one run.

    Args:
        variants: rows of Table 1.
        precisions: of the arithmetic; bfloat16 is Keras's mixed_bfloat16.
        image_size: side of the images in pixels.
        seconds: how long to time each case.
        output: JSON file for the results; must not exist.
    """
    from keras_mixer.inspect.speed import CALLS, Case, prepare, prepare_limit, rounds

    if output is not None:
        refuse_existing(output)
    cases = [
        Case(kind, variant, batch_size, precision, image_size)
        for variant in variants
        for precision in precisions
        for kind, batch_size in CALLS
    ]
    results = []
    for case in cases:
        call, limit = prepare(case), prepare_limit(case.precision)
        for warm_up in (call, call, limit, limit):
            warm_up()
        own: list[float] = []
        product: list[float] = []
        for _ in range(3):  # in turn, so that both meet the same machine
            own += rounds(call, seconds / 4)
            product += rounds(limit, seconds / 12)
        results.append(_result(case, own, product))
        print(f"{case.name}: {results[-1]['images_per_second']:.1f} images/s", flush=True)
    print()
    print_table(
        ("case", "images/s", "spread", "GFLOP/s", "of the product", "limit GFLOP/s"),
        [
            (
                result["name"],
                f"{result['images_per_second']:.2f}",
                f"{result['spread']:.0%}",
                f"{result['gflops']:.0f}",
                f"{result['of_limit']:.2f}",
                f"{result['limit_gflops']:.0f}",
            )
            for result in results
        ],
    )
    if output is not None:
        content = {
            "machine": platform.processor() or platform.machine(),
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
            "results": results,
        }
        write_json(output, content)
        print(f"\nWritten to {output}.")


def _result(case, own, product):
    """Medians, and half the distance of the quartiles as spread."""
    from keras_mixer.inspect.speed import limit_operations

    median, limit = np.median(own), np.median(product)
    low, high = np.quantile(own, [0.25, 0.75])
    gflops, limit_gflops = case.operations() / median / 1e9, limit_operations() / limit / 1e9
    return {
        "name": case.name,
        **dataclasses.asdict(case),
        "images_per_second": float(case.batch_size / median),
        "spread": float((high - low) / 2 / median),
        "gflops": float(gflops),
        "limit_gflops": float(limit_gflops),
        "of_limit": float(gflops / limit_gflops),
        "calls": len(own),
    }


def saliency(
    model: Model,
    image: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IMAGE")],
    output: Path,
    class_name: str | None = None,
):
    """Show which regions of an image support a class (red) and which contradict it (blue).

    Args:
        model: a finished run directory or .keras file.
        image: a JPEG, PNG, GIF, BMP or WebP file.
        output: the PNG file to write; must not exist.
        class_name: the class; the most probable one by default.
    """
    from keras_mixer.export.loading import load_mixer
    from keras_mixer.inspect.saliency import write_picture

    refuse_existing(output)
    print(f"Written: {output} (class {write_picture(load_mixer(model), image, output, class_name)})")


def report(runs: Runs, output: Path = Path("report.html")):
    """Write one HTML page about finished runs: curves, tables, confusion, few-shot, weight pictures, cost.

    Args:
        runs: folders of finished runs; what keras-mixer evaluate and fewshot left in them is shown too.
        output: the .html file to write; must not exist.
    """
    from keras_mixer.inspect.report import write_report

    print(f"Written: {write_report(runs, output)}")


def weights(model: Model, output: Path, blocks: tuple[int, ...] = (0, 1, 2), tile_grid: tuple[int, int] | None = None):
    """Draw every hidden unit of token-mixing MLPs on the grid of tokens, low frequencies first, opposites side by side.

    Args:
        model: a finished run directory or .keras file.
        output: the .png or .svg file to write; must not exist.
        blocks: numbers of blocks, from 0 on.
        tile_grid: rows and columns of tokens before a model was widened; each unit is then shown on its own tile.
    """
    from keras_mixer.export.loading import load_mixer
    from keras_mixer.inspect.token_weights import weights_figure

    check_picture_path(output)
    loaded = load_mixer(model)
    last = len(blocks_of(loaded))
    chosen = blocks if blocks != (0, 1, 2) else tuple(range(min(3, last)))
    print(f"Written: {write_figure(weights_figure(loaded, chosen, tile_grid), output)}")


def stem(model: Model, output: Path):
    """Draw the filters of the stem, low frequencies first.

    Args:
        model: a finished run directory or .keras file.
        output: the .png or .svg file to write; must not exist.
    """
    from keras_mixer.export.loading import load_mixer
    from keras_mixer.inspect.token_weights import stem_figure

    check_picture_path(output)
    print(f"Written: {write_figure(stem_figure(load_mixer(model)), output)}")


def throughput(
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")],
    output: Path,
    batch_sizes: tuple[int, ...] = (1, 8, 32),
    image_size: int = 224,
    seconds: float = 5.0,
):
    """Parameters and multiply-accumulates exactly, images a second and memory as measured here.

    Args:
        models: finished run directories, .keras files, or variants such as B/16 with random weights.
        output: the .png or .svg file to write; the numbers go into a .json file beside it. Neither may exist.
        batch_sizes: images in a call.
        image_size: side in pixels, for variants.
        seconds: how long to measure each batch size.
    """
    from keras_mixer.inspect.cost import exact_cost, throughput as measure, traced_macs
    from keras_mixer.paper.pareto import throughput_figure

    if not models:
        raise ValueError("Name at least one model.")
    check_figure_and_numbers(output)
    rows, results = [], {}
    content: dict[str, dict[str, Any]] = {}
    for name in models:
        model = _load(name, image_size)
        parameters, macs = exact_cost(model)
        traced = traced_macs(model)
        results[name] = measured = measure(model, batch_sizes, seconds)
        content[name] = {"parameters": parameters, "macs": macs, "traced_macs": traced}
        content[name]["throughput"] = [dataclasses.asdict(item) for item in measured]
        for item in measured:
            memory = "?" if item.peak_bytes is None else f"{item.peak_bytes / 1e6:,.0f} MB"
            cost = (f"{parameters:,}", f"{macs / 1e9:.3f}", "yes" if macs == traced else f"no: {traced:,}")
            rows.append((name, *cost, str(item.batch_size), f"{item.images_per_second:,.1f}", memory))
        del model
        keras.backend.clear_session()  # its memory is not the next one's
    header = ("model", "parameters", "GMACs", "graph agrees", "batch", "images/s", "peak memory")
    print_table(header, rows)
    write_figure_and_numbers(content, throughput_figure(results), output)


def _load(name, image_size):
    from keras_mixer.export.loading import load_mixer
    from keras_mixer.training.recipe import KNOWN_VARIANTS

    if name in KNOWN_VARIANTS:
        return Mixer(**dataclasses.asdict(KNOWN_VARIANTS[name]), input_shape=(image_size, image_size, 3))
    return load_mixer(Path(name))


def check_figure_and_numbers(output):
    """Neither the figure nor the numbers beside it may be there."""
    check_picture_path(output)
    refuse_existing(output.with_suffix(".json"))


def write_figure_and_numbers(content, figure, output):
    """Writes the numbers into a .json file beside the figure, and says so."""
    write_json(output.with_suffix(".json"), content)
    print(f"\nWritten: {write_figure(figure, output)} and {output.with_suffix('.json').name}")

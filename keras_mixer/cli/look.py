"""Commands that inspect models: variants, benchmark, saliency, report, card, plot weights, stem and throughput."""

import dataclasses
import platform
import webbrowser
from pathlib import Path
from typing import Annotated, Any, Literal

import keras
import numpy as np
import tyro

from keras_mixer.anatomy import anatomy
from keras_mixer.cli.terminal import Model, Run, Runs, VariantName, print_table
from keras_mixer.fields import Count, CountFrom0, Positive
from keras_mixer.files import refuse_existing, write_json
from keras_mixer.inspect.figures import check_figure_path, write_figure
from keras_mixer.models import Mixer
from keras_mixer.variants import VARIANTS

Blocks = tuple[CountFrom0, ...]
TileGrid = tuple[Count, Count]
OpenFlag = Annotated[bool, tyro.conf.arg(name="open")]


def variants(image_size: Count = 224, classes: CountFrom0 = 1000):
    """List the seven models of Table 1 and S/8 with parameters and cost.

    Args:
        image_size: side of the image in pixels; models whose patch size does not divide it are marked.
        classes: outputs of the head; 0 for a model without head.
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
    image_size: Count = 224,
    seconds: Positive = 10.0,
    output: Path | None = None,
):
    """Time forward passes and training steps, alternating with a matrix product on the same machine.

    Args:
        variants: rows of Table 1.
        precisions: float32, or bfloat16 for Keras's mixed_bfloat16.
        image_size: side of the images in pixels.
        seconds: how long to time each case.
        output: JSON file for the results; must not exist.
    """
    from keras_mixer.inspect.speed import CALLS, Case, prepare, prepare_limit, time_calls

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
        for _ in range(3):  # alternating, so that both see the same load on the machine
            own += time_calls(call, seconds / 4)
            product += time_calls(limit, seconds / 12)
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
    """Medians; the spread is half the interquartile range."""
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
        image: an image file in any format that Pillow reads.
        output: the PNG file to write; must not exist.
        class_name: the class; the most probable one by default.
    """
    from keras_mixer.export.predictor import load_mixer
    from keras_mixer.inspect.saliency import write_saliency

    refuse_existing(output)
    print(f"Written: {output} (class {write_saliency(load_mixer(model), image, output, class_name)})")


def report(
    runs: Runs,
    output: Path = Path("report.html"),
    images: Count = 10_000,
    skip_corrupt: bool = False,
    open_browser: OpenFlag = False,
):
    """Write an HTML report on finished runs: comparison, mistakes as images, confusion, classes, curves, weights.

    Each model classifies its own test images for it. Without them, the rest of the report is written.

    Args:
        runs: folders of finished runs; results of keras-mixer evaluate and fewshot in them are included.
        output: the .html file to write; must not exist.
        images: largest number of test images to classify, evenly spaced.
        skip_corrupt: leave out image files that cannot be decoded.
        open_browser: open the report in the browser.
    """
    from keras_mixer.inspect.report import write_report

    written = write_report(runs, output, images, skip_corrupt)
    print(f"Written: {written}")
    if open_browser:
        webbrowser.open(written.resolve().as_uri())


def card(run: Run, output: Path | None = None):
    """Write a model card of a finished run, with the metadata that the Hugging Face Hub reads.

    Args:
        run: folder of a finished run; verified exports in it are included.
        output: the file to write; must not exist. By default RUN/README.md.
    """
    from keras_mixer.inspect.model_card import write_model_card

    print(f"Written: {write_model_card(run, output)}. Add a license to its first lines.")


def weights(model: Model, output: Path, blocks: Blocks = (0, 1, 2), tile_grid: TileGrid | None = None):
    """Plot every hidden unit of token-mixing MLPs on the grid of tokens: low frequencies first, opposites in pairs.

    Args:
        model: a finished run directory or .keras file.
        output: the .png or .svg file to write; must not exist.
        blocks: indices of blocks, from 0.
        tile_grid: rows and columns of tokens before the model was widened; each unit is then shown on its own tile.
    """
    from keras_mixer.export.predictor import load_mixer
    from keras_mixer.inspect.token_weights import weights_figure

    check_figure_path(output)
    loaded = load_mixer(model)
    last = len(anatomy(loaded).blocks)
    chosen = blocks if blocks != (0, 1, 2) else tuple(range(min(3, last)))
    print(f"Written: {write_figure(weights_figure(loaded, chosen, tile_grid), output)}")


def stem(model: Model, output: Path):
    """Plot the stem filters, low frequencies first.

    Args:
        model: a finished run directory or .keras file.
        output: the .png or .svg file to write; must not exist.
    """
    from keras_mixer.export.predictor import load_mixer
    from keras_mixer.inspect.token_weights import stem_figure

    check_figure_path(output)
    print(f"Written: {write_figure(stem_figure(load_mixer(model)), output)}")


def throughput(
    models: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL...")],
    output: Path,
    batch_sizes: tuple[Count, ...] = (1, 8, 32),
    image_size: Count = 224,
    seconds: Positive = 5.0,
):
    """Plot the measured speed of models; print exact parameters and multiply-accumulates, speed and memory.

    Args:
        models: finished run directories, .keras files, or variants such as B/16 (with random weights).
        output: the .png or .svg file to write; the numbers go to a .json file next to it. Neither may exist.
        batch_sizes: images per call.
        image_size: side of the images in pixels, for variants.
        seconds: how long to measure each batch size.
    """
    from keras_mixer.inspect.cost import exact_cost, traced_macs
    from keras_mixer.inspect.speed import throughput as measure
    from keras_mixer.paper.pareto import throughput_figure

    if not models:
        raise ValueError("Expected at least one model, got none.")
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
        keras.backend.clear_session()  # frees memory, so that the next model's peak does not include it
    header = ("model", "parameters", "GMACs", "graph agrees", "batch", "images/s", "peak memory")
    print_table(header, rows)
    write_figure_and_numbers(content, throughput_figure(results), output)


def _load(name, image_size):
    from keras_mixer.export.predictor import load_mixer
    from keras_mixer.training.recipe import KNOWN_VARIANTS

    if name in KNOWN_VARIANTS:
        return Mixer(**dataclasses.asdict(KNOWN_VARIANTS[name]), input_shape=(image_size, image_size, 3))
    return load_mixer(Path(name))


def check_figure_and_numbers(output):
    """Raises ValueError if the figure or the .json file next to it exists."""
    check_figure_path(output)
    refuse_existing(output.with_suffix(".json"))


def write_figure_and_numbers(content, figure, output):
    """Writes the figure, and the numbers to a .json file next to it; prints both paths."""
    write_json(output.with_suffix(".json"), content)
    print(f"\nWritten: {write_figure(figure, output)} and {output.with_suffix('.json').name}")

"""What models cost, measured and published."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import keras
import tyro

from keras_mixer.commands.terminal import print_table
from keras_mixer.export.loading import load_mixer
from keras_mixer.files import refuse_existing, write_json
from keras_mixer.inspect.cost import exact_cost, throughput as measure, traced_macs
from keras_mixer.inspect.figures import check_picture_path, write_figure
from keras_mixer.models import Mixer
from keras_mixer.paper.linear_cost import SIDES, linear_cost as measure_linear_cost, linear_cost_figure
from keras_mixer.paper.pareto import OwnPoint, pareto_figure, throughput_figure
from keras_mixer.training.recipe import KNOWN_VARIANTS


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
    if not models:
        raise ValueError("Name at least one model.")
    _check(output)
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
    _write(content, throughput_figure(results), output)


def pareto(output: Path, own: tuple[str, ...] = ()):
    """Figs 2, 3: ImageNet accuracy against speed and pre-training cost, the paper's Tables 2 and 3 and own points.

    Args:
        output: the .png or .svg file to write; must not exist.
        own: own points as NAME,ACCURACY,IMAGES_PER_SECOND,CORE_DAYS; accuracy in percent, the last two may be empty.
    """
    check_picture_path(output)
    print(f"Written: {write_figure(pareto_figure([_own(text) for text in own]), output)}")


def linear_cost(
    output: Path, sides: tuple[int, ...] = SIDES, hidden_dim: int = 768, tokens_mlp_dim: int = 384, seconds: float = 4.0
):
    """How the cost of a Mixer block (D_S fixed) and of an attention block grows with the number of patches.

    Args:
        output: the .png or .svg file to write; the numbers go into a .json file beside it. Neither may exist.
        sides: of the images in pixels; patches have 16.
        hidden_dim: channels of both blocks, a multiple of 64.
        tokens_mlp_dim: hidden units D_S of the Mixer block, the same at every size.
        seconds: how long to measure each.
    """
    _check(output)
    sizes = {"hidden_dim": hidden_dim, "channels_mlp_dim": 4 * hidden_dim, "heads": max(1, hidden_dim // 64)}
    result = measure_linear_cost(sides, tokens_mlp_dim=tokens_mlp_dim, seconds=seconds, **sizes)
    rows = [
        (name, str(count), f"{macs / 1e9:.3f}", f"{speed:,.2f}")
        for name, speeds in result.images_per_second.items()
        for count, macs, speed in zip(result.tokens, result.macs[name], speeds, strict=True)
    ]
    print_table(("block", "patches", "GMACs", "images/s"), rows)
    exact = result.macs_slopes()
    print()
    for name, slope in result.slopes().items():
        print(f"{name}: seconds an image grow as patches^{slope:.3f} (multiply-accumulates: ^{exact[name]:.3f})")
    _write(dataclasses.asdict(result) | {"slopes": result.slopes()}, linear_cost_figure(result), output)


def _load(name, image_size):
    if name in KNOWN_VARIANTS:
        return Mixer(**dataclasses.asdict(KNOWN_VARIANTS[name]), input_shape=(image_size, image_size, 3))
    return load_mixer(Path(name))


def _own(text):
    parts = [part.strip() for part in text.split(",")]
    try:
        name, accuracy, speed, days = parts
        return OwnPoint(name, float(accuracy), float(speed) if speed else None, float(days) if days else None)
    except ValueError as error:
        raise ValueError(f"An own point is NAME,ACCURACY,IMAGES_PER_SECOND,CORE_DAYS, unlike {text!r}.") from error


def _check(output):
    """Neither the figure nor the numbers beside it may be there."""
    check_picture_path(output)
    refuse_existing(output.with_suffix(".json"))


def _write(content, figure, output):
    write_json(output.with_suffix(".json"), content)
    print(f"\nWritten: {write_figure(figure, output)} and {output.with_suffix('.json').name}")

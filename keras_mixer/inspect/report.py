"""A self-contained HTML report on finished runs: curves, tables, confusion matrices, weight figures, cost."""

import base64
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

from keras_mixer.export.loading import load_mixer
from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.inspect.confusion import confusion_figure, mistakes
from keras_mixer.inspect.cost import exact_cost
from keras_mixer.inspect.figures import COLOURS, DOTS_PER_INCH, canvas
from keras_mixer.inspect.token_weights import stem_figure, weights_figure
from keras_mixer.mixer_model import blocks_of
from keras_mixer.training.run_directory import read_metrics

TEMPLATE = Path(__file__).with_name("report.html.jinja")
MOST_BLOCKS = 3  # as in the paper


@dataclasses.dataclass(frozen=True)
class Run:
    """The contents of a run directory; None for a file that does not exist.

    Attributes:
        name: name of the folder.
        config: content of `config.json`.
        results: content of `results.json`.
        evaluation: content of `evaluation.json`, which `keras-mixer evaluate` writes.
        few_shot: content of `fewshot.json`, which `keras-mixer fewshot` writes.
        metrics: columns of `metrics.csv`.
        parameters: number of parameters of the model.
        macs: multiply-accumulates per image.
        weights: figure of the token-mixing weights.
        stem: figure of the stem filters.
    """

    name: str
    config: dict[str, Any]
    results: dict[str, Any]
    evaluation: dict[str, Any] | None
    few_shot: dict[str, Any] | None
    metrics: dict[str, list[float]]
    parameters: int
    macs: int
    weights: Any
    stem: Any


def write_report(runs, output):
    """Writes the report.

    Args:
        runs: folders of finished runs.
        output: the `.html` file to write; must not exist.

    Returns:
        The `Path` written.

    Raises:
        ValueError: there are no runs, a run is not finished, the file exists or does not end in .html, or a library
            of the extra `[plots]` is missing.
    """
    output = Path(output)
    if not runs:
        raise ValueError("Expected at least one finished run, got none.")
    if output.suffix != ".html":
        raise ValueError(f"Expected a path ending in .html, got {output}.")
    refuse_existing(output)
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise ValueError("Reports need jinja2: pip install 'keras-mixer[plots]'.") from error
    read = [read_run(folder) for folder in runs]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        runs=[_described(run) for run in read],
        accuracy_curves=_inline(_curves(read, "accuracy", "accuracy")),
        loss_curves=_inline(_curves(read, "loss", "loss")),
    )
    with atomic_write(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return output


def read_run(folder) -> Run:
    """Reads a finished run.

    Raises:
        ValueError: the folder is not a finished run.
    """
    folder = Path(folder)
    if not (folder / "results.json").is_file() or not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a finished run: config.json and results.json are required.")
    model = load_mixer(folder)
    parameters, macs = exact_cost(model)
    blocks = range(min(MOST_BLOCKS, len(blocks_of(model))))
    return Run(
        name=folder.resolve().name,
        config=_read(folder / "config.json"),
        results=_read(folder / "results.json"),
        evaluation=_read(folder / "evaluation.json"),
        few_shot=_read(folder / "fewshot.json"),
        metrics=read_metrics(folder / "metrics.csv"),
        parameters=parameters,
        macs=macs,
        weights=weights_figure(model, blocks),
        stem=stem_figure(model),
    )


def _described(run):
    """The run as the template needs it: text and inline images."""
    evaluation = None
    if run.evaluation:
        confusion = run.evaluation["confusion"]
        names = run.evaluation.get("class_names") or list(run.evaluation["per_class"])
        evaluation = run.evaluation | {
            "image": _inline(confusion_figure(confusion, names)),
            "mistakes": mistakes(confusion, names),
        }
    return {
        "name": run.name,
        "config": {key: value for key, value in run.config.items() if value is not None},
        "results": run.results,
        "evaluation": evaluation,
        "few_shot": run.few_shot,
        "parameters": run.parameters,
        "macs": run.macs,
        "weights": _inline(run.weights, "png"),
        "stem": _inline(run.stem, "png"),
    }


def _curves(runs, column, label):
    """Training (thin) and test (thick) curves of every run."""
    figure, ax = canvas(6.0, 3.6)
    for colour, run in zip(COLOURS * len(runs), runs, strict=False):
        for part, prefix, width, alpha in (("training", "", 1, 0.6), ("test", "val_", 2, 1.0)):
            if prefix + column in run.metrics:
                values, name = run.metrics[prefix + column], f"{run.name}, {part}"
                ax.plot(run.metrics["step"], values, color=colour, label=name, linewidth=width, alpha=alpha)
    ax.set(xlabel="step", ylabel=label)
    ax.grid(alpha=0.25)
    if ax.lines:
        ax.legend(frameon=False, fontsize=8)
    return figure


def _inline(figure, format="svg"):
    """The figure as a data URL."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=format, dpi=DOTS_PER_INCH)
    kind = {"svg": "image/svg+xml", "png": "image/png"}[format]
    return f"data:{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _read(file):
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

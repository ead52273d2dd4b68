"""A model card of a finished run: Markdown below a metadata block in YAML, as the Hugging Face Hub reads it."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import keras_mixer
from keras_mixer.data.sources import data_name
from keras_mixer.data.user_data import NAME as OWN_DATA
from keras_mixer.description import describe
from keras_mixer.export.predictor import load_mixer
from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.run_directory import RunDirectory, read_recipe

HUB_DATASETS = {  # TensorFlow Datasets names and the same data on the Hub
    "cifar10": "uoft-cs/cifar10",
    "cifar100": "uoft-cs/cifar100",
    "fashion_mnist": "zalando-datasets/fashion_mnist",
    "imagenet2012": "ILSVRC/imagenet-1k",
    "mnist": "ylecun/mnist",
}
TASK = {"type": "image-classification", "name": "Image classification"}
MOST_CLASSES = 50  # that are listed by name
PATHS = ("data", "data_dir", "weights", "teacher")  # may name folders of one machine: never shown whole
SECTION_OF_ITS_OWN = ("name", "seed", "evaluation_crop", *PATHS)


def write_model_card(run, output=None) -> Path:
    """Writes the model card of a run.

    Args:
        run: folder of a finished run; results of exports in it (`*.parity.json`) are included.
        output: the file to write, which must not exist; None for README.md in the run.

    Returns:
        The `Path` written.

    Raises:
        ValueError: the run is not finished, or the file exists.

    Source: ours; the metadata as in the Hub's documentation of model cards.
    """
    output = Path(run) / "README.md" if output is None else Path(output)
    refuse_existing(output)
    recipe = read_recipe(run)
    directory = RunDirectory(run, recipe)
    if not directory.finished:
        raise ValueError(f"{run} is not finished. Rerun its training to finish it.")
    results, description = directory.read_results(), describe(load_mixer(run))
    name = Path(run).resolve().name
    sections = {
        "": _summary(recipe, results, description),
        "Use": _use(description),
        "Results": _results(recipe, results),
        "Data": _data(recipe, description),
        "Training": _training(recipe, results),
        "Exports": _exports(directory.path),
    }
    parts = [text if not title else f"## {title}\n\n{text}" for title, text in sections.items() if text]
    header = "\n".join(["---", "# license: your choice, such as apache-2.0", *_yaml(_metadata(name, recipe, results))])
    with atomic_write(output) as temporary:
        temporary.write_text(f"{header}\n---\n\n# {name}\n\n" + "\n\n".join(parts) + "\n", encoding="utf-8")
    return output


def _metadata(name, recipe, results) -> dict[str, Any]:
    data, split = data_name(recipe.data), "test" if recipe.part() == "test" else "held-out training images"
    hub_data, base = HUB_DATASETS.get(recipe.data), re.match(r"hf://([^/@]+/[^/@]+)", recipe.weights or "")
    dataset = {"type": hub_data or re.sub(r"[^\w.-]+", "-", data), "name": data, "split": split}
    metrics = [
        {"type": kind, "name": label, "value": results[key]}
        for key, kind, label in _figures(results)
        if math.isfinite(results[key])
    ]
    return {
        "library_name": "keras",
        "pipeline_tag": TASK["type"],
        "tags": ["keras-mixer", "mlp-mixer", "image-classification"],
        **({"datasets": [hub_data]} if hub_data else {}),
        **({"base_model": base[1]} if base else {}),
        "model-index": [{"name": name, "results": [{"task": TASK, "dataset": dataset, "metrics": metrics}]}],
    }


def _yaml(value, indent="") -> list[str]:
    """Lines of YAML for dictionaries and lists that are not empty; strings and numbers are written as in JSON."""
    lines = []
    for key, item in value.items() if isinstance(value, dict) else ((None, item) for item in value):
        start = f"{indent}- " if key is None else f"{indent}{key}:"
        if not isinstance(item, dict | list):
            scalar = json.dumps(item, ensure_ascii=False)
            if isinstance(item, float):
                scalar = re.sub(r"^(-?\d+)e", r"\1.0e", scalar)  # YAML reads 1e-07 as a string
            lines.append(f"{start}{scalar}" if key is None else f"{start} {scalar}")
        elif key is None:
            first, *rest = _yaml(item, f"{indent}  ")
            lines += [start + first.lstrip(), *rest]
        else:
            lines += [start, *_yaml(item, f"{indent}  ")]
    return lines


def _figures(results):
    """`(key in results.json, type of metric, name)`; the top five of five classes are always correct."""
    shown = [("accuracy", "accuracy", "Top-1 accuracy"), ("loss", "loss", "Loss")]
    if results["top5"] < 1:
        shown.insert(1, ("top5", "accuracy", "Top-5 accuracy"))
    return shown


def _summary(recipe, results, description):
    variant, (height, width, _) = recipe.architecture(), description.input_shape
    return (
        "An image classifier with the [MLP-Mixer](https://arxiv.org/abs/2105.01601) architecture, trained with "
        f"`keras_mixer` {results['versions'].get('keras-mixer', keras_mixer.__version__)}.\n\n"
        + _table(
            [
                ("architecture", f"{variant.num_blocks} blocks, {variant.hidden_dim} channels, patches of "
                 f"{variant.patch_size} px, token MLPs of {variant.tokens_mlp_dim} and channel MLPs of "
                 f"{variant.channels_mlp_dim} units"),
                ("parameters", f"{results['parameters']:,}"),
                ("input", f"RGB images of {height} x {width} px, pixels in [0, 255]"),
                ("cropped and resized by", f"`{description.evaluation_crop}`"),
                ("output", f"probabilities of {len(description.class_names)} classes ({description.activation})"),
            ]
        )
    )  # fmt: skip


def _use(description):
    height, width, channels = description.input_shape
    return "\n".join(
        [
            "```python",
            "import keras",
            "import keras_mixer  # tells Keras about the layers",
            "import numpy as np",
            "",
            'model = keras.saving.load_model("model.keras")',
            f'images = np.zeros((1, {height}, {width}, {channels}), "uint8")  # pixels in [0, 255]',
            "probabilities = model.predict(images)",
            "print(model.class_names[probabilities[0].argmax()])",
            "```",
        ]
    )


def _results(recipe, results):
    part = "test images" if recipe.part() == "test" else "training images that were held out"
    rows = [(label, _figure(key, results[key])) for key, _, label in _figures(results)]
    if results.get("start_accuracy") is not None:
        rows.append(("Top-1 accuracy before training", _figure("accuracy", results["start_accuracy"])))
    return f"On {results['test_images']:,} {part} of {data_name(recipe.data)}:\n\n{_table(rows)}"


def _figure(key, value):
    return f"{value:.4f}" if key == "loss" else f"{value:.2%}"


def _data(recipe, description):
    names = [f"`{name}`" for name in description.class_names]
    more = f" and {len(names) - MOST_CLASSES} more" if len(names) > MOST_CLASSES else ""
    described = recipe.data if recipe.data.startswith(OWN_DATA) else data_name(recipe.data)
    return f"Trained on {described}. Classes: {', '.join(names[:MOST_CLASSES])}{more}."


def _training(recipe, results):
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    changed = [
        (f"`{name}`", f"`{getattr(recipe, name)}`")
        for name, default in defaults.items()
        if name not in SECTION_OF_ITS_OWN and getattr(recipe, name) != default
    ]
    start = f"the weights `{Path(recipe.weights).name}`" if recipe.weights else "random weights"
    teacher = f", distilled from `{Path(recipe.teacher).name}`" if recipe.teacher else ""
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    return (
        f"Recipe `{recipe.name}`, from {start}{teacher}, seed {results['seed']}, {results['seconds']:,.0f} s on the "
        f"{results['backend']} backend ({versions})."
        + (f" Settings that differ from the defaults:\n\n{_table(changed)}" if changed else "")
    )


def _exports(folder):
    rows = []
    for path in sorted(folder.rglob("*.parity.json")):
        parity = json.loads(path.read_text(encoding="utf-8"))
        if parity["passed"]:
            accuracy = "-" if parity["export_accuracy"] is None else f"{parity['export_accuracy']:.2%}"
            name = path.relative_to(folder).as_posix().removesuffix(".parity.json")
            figures = (
                f"{parity['images']:,}",
                f"{parity['agreement']:.2%}",
                f"{parity['max_difference']:.1e}",
                accuracy,
            )
            rows.append((f"`{name}`", f"{parity['bytes'] / 1e6:.2f} MB", parity["runtime"], *figures))
    header = ("export", "size", "runtime", "images compared", "same class", "largest difference", "accuracy")
    return "Each was compared with the model on the same images.\n\n" + _table(rows, header) if rows else ""


def _table(rows, header=("", "")):
    cells = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells)

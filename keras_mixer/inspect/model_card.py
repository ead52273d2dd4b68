"""A model card of a finished run: Markdown below the metadata that the Hugging Face Hub reads."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from keras_mixer.anatomy import Anatomy
from keras_mixer.data.sources import data_name
from keras_mixer.data.user_data import NAME as OWN_DATA
from keras_mixer.export.predictor import load_model
from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.run import read_recipe, read_results

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
PATHS = ("data", "data_dir", "weights", "teacher")  # may name folders of one machine: never shown whole
SECTION_OF_ITS_OWN = ("name", "seed", "evaluation_crop", *PATHS)


def write_model_card(run, output=None) -> Path:
    """Writes the model card of a finished run, by default to its README.md; returns the `Path` written.

    Results of exports in the run (`*.parity.json`) are included. ValueError if it is not finished, or the file exists.
    """
    from huggingface_hub import ModelCard  # takes half a second, needed only here

    output = Path(run) / "README.md" if output is None else Path(output)
    refuse_existing(output)
    recipe, results, model = read_recipe(run), read_results(run), load_model(run)
    used = {name: results[name] for name in ("global_batch_size", "warmup_steps") if name in results}  # small data
    recipe = dataclasses.replace(recipe, **used)
    name = Path(run).resolve().name
    start = f"the weights `{Path(recipe.weights).name}`" if recipe.weights else "random weights"
    card = ModelCard.from_template(
        _metadata(name, recipe, results),
        template_path=str(TEMPLATE),
        name=name,
        results=results,
        variant=Anatomy(model).variant(),
        shape=model.input_shape[1:],
        class_names=model.class_names,
        part="test images" if results["part"] == "test" else "training images that were held out",
        data=data_name(recipe.data),
        described_data=recipe.data if recipe.data.startswith(f"{OWN_DATA} (") else data_name(recipe.data),
        metrics=_metrics(results),
        start=start + (f", distilled from `{Path(recipe.teacher).name}`" if recipe.teacher else ""),
        settings=_changed_settings(recipe),
        exports=_exports(Path(run)),
    )
    with atomic_write(output) as temporary:
        card.save(temporary)
    return output


def _metadata(name, recipe, results):
    from huggingface_hub import EvalResult, ModelCardData

    base = re.match(r"hf://([^/@]+/[^/@]+)", recipe.weights or "")
    data: dict[str, Any] = {
        "task_type": "image-classification",
        "task_name": "Image classification",
        "dataset_type": re.sub(r"[^\w.-]+", "-", data_name(recipe.data)),
        "dataset_name": data_name(recipe.data),
        "dataset_split": "test" if results["part"] == "test" else "held-out training images",
    }
    return ModelCardData(
        model_name=name,
        library_name="keras",
        pipeline_tag="image-classification",
        tags=["keras-mixer", "mlp-mixer", "image-classification"],
        base_model=base[1] if base else None,
        eval_results=[
            EvalResult(**data, metric_type=kind, metric_name=label, metric_value=round(value, 4))
            for kind, label, value in _metrics(results)
        ],
    )


def _metrics(results):
    """`(type, name, value)` of the accuracies and the loss."""
    top5 = results["top5"] if results["top5"] < 1 else None  # the top five of five classes are always right
    found = [("accuracy", "Top-1 accuracy", results["accuracy"]), ("accuracy", "Top-5 accuracy", top5)]
    return [metric for metric in (*found, ("loss", "Loss", results["loss"])) if metric[2] is not None]


def _changed_settings(recipe):
    """The fields of a recipe that differ from their defaults."""
    fields = [field for field in dataclasses.fields(Recipe) if field.name not in SECTION_OF_ITS_OWN]
    values = {field.name: getattr(recipe, field.name) for field in fields}
    return {field.name: values[field.name] for field in fields if values[field.name] != field.default}


def _exports(folder):
    """One row for each export in the run."""
    rows = []
    for path in sorted(folder.rglob("*.parity.json")):
        parity = json.loads(path.read_text(encoding="utf-8"))
        name = path.relative_to(folder).as_posix().removesuffix(".parity.json")
        if not (folder / name).exists():  # it was deleted
            continue
        accuracy = "-" if parity["export_accuracy"] is None else f"{parity['export_accuracy']:.2%}"
        agreement = f"{parity['images']:,}", f"{parity['agreement']:.2%}", f"{parity['max_difference']:.1e}"
        rows.append((f"`{name}`", f"{parity['bytes'] / 1e6:.2f} MB", parity["runtime"], *agreement, accuracy))
    return rows

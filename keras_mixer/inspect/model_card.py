"""A model card of a finished run: Markdown below the metadata that the Hugging Face Hub reads."""

import dataclasses
import json
import re
from pathlib import Path

from keras_mixer.anatomy import Anatomy
from keras_mixer.data.sources import data_name
from keras_mixer.export.predictor import load_model
from keras_mixer.files import atomic_write, refuse_existing
from keras_mixer.training.recipe import Recipe
from keras_mixer.training.run import read_recipe, read_results

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
# Not in the table of settings; the last four may name folders of one machine, and are never shown whole.
LEFT_OUT = ("name", "seed", "evaluation_crop", "data", "data_dir", "weights", "teacher")


def write_model_card(run, output=None) -> Path:
    """Writes the model card of a finished run, by default to its README.md; returns the `Path` written.

    Results of exports in the run (`*.parity.json`) are included. ValueError if it is not finished, or the file exists.
    """
    from huggingface_hub import ModelCard, ModelCardData  # takes half a second, needed only here

    output = Path(run) / "README.md" if output is None else Path(output)
    refuse_existing(output)
    recipe, results, model = read_recipe(run), read_results(run), load_model(run)
    used = {name: results[name] for name in ("global_batch_size", "warmup_steps") if name in results}  # small data
    recipe = dataclasses.replace(recipe, **used)
    base = re.match(r"hf://([^/@]+/[^/@]+)", recipe.weights or "")
    start = f"the weights `{Path(recipe.weights).name}`" if recipe.weights else "random weights"
    card = ModelCard.from_template(
        ModelCardData(),  # the template has the metadata too
        template_path=str(TEMPLATE),
        name=Path(run).resolve().name,
        base_model=base and base[1],
        results=results,
        metrics=_metrics(results),
        variant=Anatomy(model).variant(),
        shape=model.input_shape[1:],
        class_names=model.class_names,
        data=data_name(recipe.data),
        data_id=re.sub(r"[^\w.-]+", "-", data_name(recipe.data)),
        start=start + (f", distilled from `{Path(recipe.teacher).name}`" if recipe.teacher else ""),
        settings=_changed_settings(recipe),
        exports=_exports(Path(run)),
    )
    with atomic_write(output) as temporary:
        card.save(temporary)
    return output


def _metrics(results):
    """`(type, name, value)` of the accuracies and the loss."""
    top5 = results["top5"] if results["top5"] < 1 else None  # the top five of five classes are always right
    found = [("accuracy", "Top-1 accuracy", results["accuracy"]), ("accuracy", "Top-5 accuracy", top5)]
    return [metric for metric in (*found, ("loss", "Loss", results["loss"])) if metric[2] is not None]


def _changed_settings(recipe):
    """The fields of a recipe that differ from their defaults."""
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    changed = {name: value for name, value in dataclasses.asdict(recipe).items() if value != defaults[name]}
    return {name: value for name, value in changed.items() if name not in LEFT_OUT}


def _exports(folder):
    """The names of the exports in the run that were not deleted, and what their comparison found."""
    files = {path.with_name(path.name.removesuffix(".parity.json")): path for path in folder.rglob("*.parity.json")}
    there = {path.relative_to(folder).as_posix(): file for path, file in sorted(files.items()) if path.exists()}
    return {name: json.loads(file.read_text(encoding="utf-8")) for name, file in there.items()}

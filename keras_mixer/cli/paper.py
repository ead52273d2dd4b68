"""The paper's numbers without training: imagenet, avg5, plot pareto, tradeoff and linear-cost."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from keras_mixer.cli.look import check_figure_and_numbers, write_figure_and_numbers
from keras_mixer.cli.terminal import Model, Runs, print_table
from keras_mixer.data.settings import EvaluationCrop
from keras_mixer.description import evaluation_crop_of
from keras_mixer.export.predictor import load_mixer, load_model
from keras_mixer.fields import Count, Positive
from keras_mixer.files import refuse_existing, write_json
from keras_mixer.inspect.figures import check_figure_path, write_figure
from keras_mixer.paper.linear_cost import SIDES


def imagenet(
    model: Model,
    data_dir: str | None = None,
    real_labels: Path | None = None,
    real_images: Path | None = None,
    v2_folder: Path | None = None,
    evaluation_crop: EvaluationCrop | None = None,
    batch_size: Count = 64,
    output: Path | None = None,
):
    """Measure an ImageNet-1k classifier on ImageNet, ReaL and ImageNet-V2, as far as their data are available.

    Args:
        model: a finished run directory or .keras file with 1000 classes.
        data_dir: folder of prepared TensorFlow Datasets (imagenet2012, imagenet2012_real, imagenet_v2).
        real_labels: the authors' real.json, instead of imagenet2012_real.
        real_images: with real_labels, a folder of ILSVRC2012_val_00000001.JPEG, ...; imagenet2012 by default.
        v2_folder: a folder of ImageNet-V2 as published by its authors (0 to 999), instead of imagenet_v2.
        evaluation_crop: how images are resized and cropped; by default the model's own, or resmall-crop.
        batch_size: images per step.
        output: JSON file to write; must not exist.
    """
    from keras_mixer.data.batches import evaluation_batches
    from keras_mixer.data.image_files import naming_damaged_files
    from keras_mixer.data.prepared import NotPrepared
    from keras_mixer.evaluation.accuracy import evaluate
    from keras_mixer.evaluation.imagenet import (
        V2_VARIANTS,
        check_classes,
        evaluate_real,
        real_split,
        v2_split,
        validation_split,
    )

    if output is not None:
        refuse_existing(output)
    loaded = load_mixer(model)
    check_classes(loaded)
    crop = evaluation_crop or evaluation_crop_of(loaded)
    size = loaded.input_shape[1:3]
    sets: dict[str, tuple[Callable, Callable]] = {
        "ImageNet": (evaluate, lambda: validation_split(data_dir)),
        "ReaL": (evaluate_real, lambda: real_split(data_dir, real_labels, real_images)),
    }
    if v2_folder:
        sets[f"V2 {v2_folder.name}"] = (evaluate, lambda: v2_split(folder=v2_folder))
    else:
        for variant in V2_VARIANTS:
            sets[f"V2 {variant}"] = (evaluate, lambda variant=variant: v2_split(variant, data_dir))
    rows, absent, remarks = [], [], []
    content: dict[str, Any] = {"evaluation_crop": crop, "image_size": list(size)}
    for name, (measure, open_split) in sets.items():
        try:
            split = open_split()
        except NotPrepared as error:
            absent.append(f"{name}: {error}")
            continue
        batches = evaluation_batches(split, image_size=size, batch_size=batch_size, crop=crop)
        with naming_damaged_files(split, crop=crop, advice=""):
            result = measure(loaded, batches, progress=True)
        rows.append((name, f"{result.top1:.2%}", f"{result.examples:,}", crop, f"{size[0]} x {size[1]}"))
        content[name] = {"accuracy": result.top1, "images": result.examples}
        remarks += [f"{name}: {remark}" for remark in result.remarks()]
    if rows:
        print_table(("data set", "top-1", "images", "crop", "input"), rows)
    print(*remarks, sep="\n", end="\n" if remarks else "")
    if absent:
        print("\nNot measured:", *absent, sep="\n  ")
    if output is not None:
        write_json(output, content)
        print(f"Written to {output}.")


def avg5(runs: Runs):
    """Mean top-1 over ImageNet, CIFAR-10, CIFAR-100, Pets and Flowers; lists those that are missing.

    Args:
        runs: folders of finished runs, each fine-tuned on one of the five data sets.
    """
    from keras_mixer.paper.average_of_five import FIVE, TEST_SPLITS, average_of_five, paper_name
    from keras_mixer.training.run_directory import read_recipe, read_results

    if not runs:
        raise ValueError(f"Name finished runs on the five data sets {', '.join(FIVE.values())}.")
    rows, results = [], []
    for folder in runs:
        content, recipe = read_results(folder), read_recipe(folder)
        if recipe.part() != "test":
            raise ValueError(
                f"{folder} was evaluated on {content['test_images']:,} {recipe.part()} training images. Avg 5 needs "
                f"test images: train with holdout 0 and the test split of {recipe.data}."
            )
        results.append((recipe.data, content["accuracy"]))
        rows.append(
            (
                paper_name(recipe.data),
                f"{content['accuracy']:.2%}",
                f"{content['test_images']:,} of {recipe.test_split}",
                content["evaluation_crop"],
                " x ".join(map(str, content["image_size"])),
                str(folder),
            )
        )
    result = average_of_five(results)
    print_table(("data set", "top-1", "images", "crop", "input", "run"), rows)
    if result.average is not None:
        print(f"\nAvg 5: {result.average:.2%}")
        return
    print(f"\nNo Avg 5: {len(result.missing)} of the five data sets are missing. To fine-tune on them:")
    for name in result.missing:
        split = f" --test-split {TEST_SPLITS[name]}" if name in TEST_SPLITS else ""
        print(f"  {name}: keras-mixer train finetune --data {FIVE[name]}{split} --workdir runs/{FIVE[name]}")


def pareto(output: Path, own: tuple[str, ...] = ()):
    """Figs 2, 3: ImageNet accuracy against speed and pre-training cost, the paper's Tables 2 and 3 and own points.

    Args:
        output: the .png or .svg file to write; must not exist.
        own: own points as NAME,ACCURACY,IMAGES_PER_SECOND,CORE_DAYS; accuracy in percent; the last two may be empty.
    """
    from keras_mixer.paper.pareto import pareto_figure

    check_figure_path(output)
    print(f"Written: {write_figure(pareto_figure([_own(text) for text in own]), output)}")


def tradeoff(runs: Runs, output: Path, batch_size: Count = 32, seconds: Positive = 5.0):
    """Plot the accuracy of finished runs over their measured speed, with the Pareto front.

    Args:
        runs: folders of finished runs on the same test images; any Keras model.
        output: the .png or .svg file to write; the numbers go to a .json file next to it. Neither may exist.
        batch_size: images per call.
        seconds: how long to measure each model.
    """
    from keras_mixer.inspect.speed import throughput as measure
    from keras_mixer.paper.pareto import tradeoff_figure
    from keras_mixer.training.run_directory import read_recipe, read_results

    check_figure_and_numbers(output)
    results = {run.name: read_results(run) for run in runs}
    tests = {(read_recipe(run).data, *(results[run.name][key] for key in ("test_images", "part"))) for run in runs}
    if len(results) < len(runs) or len(tests) != 1:
        raise ValueError(
            f"Expected finished runs with different names and the same test images, got {[run.name for run in runs]} "
            f"on {sorted(tests)}."
        )
    content = {}
    for run in runs:
        (measured,) = measure(load_model(run), (batch_size,), seconds)
        kept = {key: results[run.name][key] for key in ("accuracy", "parameters")}
        content[run.name] = {"images_per_second": measured.images_per_second, **kept}
        keras.backend.clear_session()
    rows = [
        (name, f"{row['parameters']:,}", f"{row['images_per_second']:,.0f}", f"{row['accuracy']:.2%}")
        for name, row in content.items()
    ]
    print_table(("run", "parameters", "images/s", "accuracy"), rows)
    points = {name: (row["images_per_second"], 100 * row["accuracy"]) for name, row in content.items()}
    write_figure_and_numbers(content, tradeoff_figure(points, results[runs[0].name]["part"]), output)


def linear_cost(
    output: Path,
    sides: tuple[Count, ...] = SIDES,
    hidden_dim: Count = 768,
    tokens_mlp_dim: Count = 384,
    seconds: Positive = 4.0,
    training: bool = False,
):
    """How the cost of a Mixer block (D_S fixed) and of an attention block grows with the number of patches.

    Args:
        output: the .png or .svg file to write; the numbers are written to a .json file next to it. Neither may exist.
        sides: image sides in pixels; patches have 16.
        hidden_dim: channels of both blocks, a multiple of 64.
        tokens_mlp_dim: hidden units D_S of the Mixer block, the same at every image size.
        seconds: duration of each measurement.
        training: measure training steps instead of forward passes.
    """
    from keras_mixer.paper.linear_cost import linear_cost as measure_linear_cost, linear_cost_figure

    check_figure_and_numbers(output)
    sizes = {"hidden_dim": hidden_dim, "channels_mlp_dim": 4 * hidden_dim, "heads": max(1, hidden_dim // 64)}
    result = measure_linear_cost(sides, tokens_mlp_dim=tokens_mlp_dim, seconds=seconds, training=training, **sizes)
    rows = [
        (name, str(count), f"{macs / 1e9:.3f}", f"{speed:,.2f}")
        for name, speeds in result.images_per_second.items()
        for count, macs, speed in zip(result.tokens, result.macs[name], speeds, strict=True)
    ]
    print_table(("block", "patches", "GMACs", "images/s"), rows)
    exact = result.macs_slopes()
    print()
    for name, slope in result.slopes().items():
        print(f"{name}: seconds per image grow as patches^{slope:.3f} (multiply-accumulates: ^{exact[name]:.3f})")
    write_figure_and_numbers(
        dataclasses.asdict(result) | {"slopes": result.slopes(), "training": training},
        linear_cost_figure(result),
        output,
    )


def _own(text):
    from keras_mixer.paper.pareto import OwnPoint

    parts = [part.strip() for part in text.split(",")]
    try:
        name, accuracy, speed, days = parts
        return OwnPoint(name, float(accuracy), float(speed) if speed else None, float(days) if days else None)
    except ValueError as error:
        raise ValueError(f"Expected NAME,ACCURACY,IMAGES_PER_SECOND,CORE_DAYS, got {text!r}.") from error

"""ImageNet, ReaL and ImageNet-V2 accuracy of a classifier: imagenet MODEL."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from keras_mixer.commands.terminal import parse, print_table
from keras_mixer.data.pipeline import evaluation_batches
from keras_mixer.evaluation.imagenet import (
    V2_VARIANTS,
    check_classes,
    evaluate_real,
    real_split,
    v2_split,
    validation_split,
)
from keras_mixer.evaluation.prepared import NotPrepared
from keras_mixer.evaluation.top1 import evaluate
from keras_mixer.export.loading import load_mixer
from keras_mixer.files import refuse_existing, write_json
from keras_mixer.models import evaluation_crop_of


def run(arguments):
    """ImageNet, ReaL and ImageNet-V2 accuracy of a classifier: imagenet MODEL."""
    parse(imagenet, "imagenet", arguments)


def imagenet(
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    data_dir: str | None = None,
    real_labels: Path | None = None,
    real_images: Path | None = None,
    v2_folder: Path | None = None,
    evaluation_crop: Literal["resize", "resize-crop", "resmall-crop"] | None = None,
    batch_size: int = 64,
    output: Path | None = None,
):
    """Measure an ImageNet-1k classifier on what is there of ImageNet, ReaL and ImageNet-V2; say what is not.

    Args:
        model: a finished run directory or .keras file with 1000 classes.
        data_dir: folder with prepared TensorFlow Datasets (imagenet2012, imagenet2012_real, imagenet_v2).
        real_labels: the authors' real.json, in place of imagenet2012_real.
        real_images: with it, a folder with ILSVRC2012_val_00000001.JPEG, ...; imagenet2012 by default.
        v2_folder: a folder of ImageNet-V2 as its authors publish it (0 to 999), in place of imagenet_v2.
        evaluation_crop: how images are brought to size; the model's own, or else resmall-crop.
        batch_size: images in a step.
        output: JSON file to write; must not exist.
    """
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

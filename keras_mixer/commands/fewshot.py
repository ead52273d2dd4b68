"""Few-shot accuracy of a model's features: fewshot MODEL DATA."""

import dataclasses
import time
from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_mixer.commands.terminal import parse, print_table
from keras_mixer.data.integrity import check_source
from keras_mixer.data.pipeline import evaluation_batches
from keras_mixer.data.sources import load_source
from keras_mixer.evaluation.few_shot import L2, SEEDS, SHOTS, few_shot
from keras_mixer.export.loading import load_mixer
from keras_mixer.files import refuse_existing, write_json


def run(arguments):
    """Few-shot accuracy of a model's features: fewshot MODEL DATA."""
    parse(fewshot, "fewshot", arguments)


def fewshot(
    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")],
    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")],
    data_dir: str | None = None,
    train_split: str = "train",
    test_split: str = "test",
    shots: tuple[int, ...] = SHOTS,
    seeds: tuple[int, ...] = SEEDS,
    l2: float = L2,
    layer: str = "pre_logits",
    evaluation_crop: Literal["resize", "resize-crop", "resmall-crop"] | None = None,
    batch_size: int = 64,
    output: Path | None = None,
    skip_corrupt: bool = False,
):
    """Teach a linear classifier on frozen features with a few images of each class, and measure it.

    Args:
        model: a finished run directory or .keras file.
        data: digits, an image folder or a TensorFlow Datasets name.
        data_dir: folder with prepared TensorFlow Datasets.
        train_split: where the images to learn from are drawn; the paper draws those of ImageNet from train[:65000].
        test_split: what is measured on.
        shots: images of each class to learn from.
        seeds: one draw of images for each.
        l2: strength of the regularisation; big_vision's is 1024.
        layer: features to use, a name as in keras-mixer features.
        evaluation_crop: how images are brought to size; the model's own, or else resize-crop, the paper's.
        batch_size: images in a step.
        output: JSON file to write; must not exist. By default RUN/fewshot.json, or fewshot.json next to a .keras file,
            which each call renews.
        skip_corrupt: leave image files out that cannot be decoded.
    """
    if output is not None:
        refuse_existing(output)
    loaded = load_mixer(model)
    crop = evaluation_crop or getattr(loaded, "evaluation_crop", None) or "resize-crop"
    source, _ = check_source(load_source(data, data_dir, train_split, test_split), skip_corrupt, crop)
    options = {"image_size": loaded.input_shape[1:3], "batch_size": batch_size, "crop": crop}
    train, test = (evaluation_batches(part, **options) for part in (source.train, source.test))
    names = len(source.class_names)
    began = time.perf_counter()
    result = few_shot(loaded, train, test, classes=names, shots=shots, seeds=seeds, l2=l2, layer=layer, progress=True)
    rows = [
        (
            str(count),
            f"{result.mean(count):.2%}",
            "  ".join(f"{share:.2%}" for share in result.accuracy[count]),
            str(result.support[count]),
        )
        for count in shots
    ]
    print_table(("shots", "accuracy", f"of seeds {', '.join(map(str, seeds))}", "images learnt from"), rows)
    height, width = options["image_size"]
    print(
        f"\n{result.test_images:,} test images of {source.name}, {names} classes, {result.features} features of "
        f"{layer}, {crop} to {height} x {width} px, l2 {l2:g}, {time.perf_counter() - began:.1f} s"
    )
    if result.non_finite:
        print(
            f"{result.non_finite:,} test images have features that are not finite (NaN, infinity) and count as wrong."
        )
    file = output or (model if model.is_dir() else model.parent) / "fewshot.json"
    content = {"data": source.name, "crop": crop, "image_size": [height, width], "layer": layer, "l2": l2}
    content |= {"seeds": seeds} | dataclasses.asdict(result)
    write_json(file, content)
    print(f"Written to {file}.")

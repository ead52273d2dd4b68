"""Using a trained model: evaluate, fewshot, imagenet, predict, features."""

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from keras_mixer.anatomy import anatomy
from keras_mixer.cli.terminal import Data, Model, Run, folder_of, print_table
from keras_mixer.data.settings import EvaluationCrop
from keras_mixer.description import evaluation_crop_of
from keras_mixer.evaluation.few_shot import L2, SEEDS, SHOTS
from keras_mixer.export.predictor import load_mixer
from keras_mixer.export.runtimes import load
from keras_mixer.fields import Count
from keras_mixer.files import refuse_existing, write_json
from keras_mixer.storage import local_copy

LARGEST_TABLE = 20  # largest number of classes for which the confusion matrix is printed


def evaluate(
    run: Run,
    data: str | None = None,
    data_dir: str | None = None,
    test_split: str | None = None,
    evaluation_crop: EvaluationCrop | None = None,
    include_new: bool = False,
    output: Path | None = None,
    skip_corrupt: bool = False,
):
    """Evaluate a finished run on its test data, or on other data with the same classes or some of them.

    The results on its own test data are written to RUN/evaluation.json and RUN/confusion.png, replacing those of an
    earlier call; those on other data only to --output.

    Args:
        run: folder of a finished run.
        data: image folder (all images, or those in its sub-folder with test images) or TensorFlow Datasets name; the
            run's own test data by default.
        data_dir: folder with prepared TensorFlow Datasets.
        test_split: split to evaluate on; the run's own by default.
        evaluation_crop: how images are cropped and resized; the run's own by default.
        include_new: test also on images that were added to the run's own folder since it was trained.
        output: JSON file to write; it must not exist.
        skip_corrupt: leave out image files that cannot be decoded.
    """
    from keras_mixer.data.sources import with_classes_of
    from keras_mixer.inspect.confusion import confusion_figure
    from keras_mixer.inspect.figures import write_figure
    from keras_mixer.training.inputs import evaluate_source, other_source, run_source
    from keras_mixer.training.recipes import resolve
    from keras_mixer.training.run import read_recipe

    if output is not None:
        refuse_existing(output)
    given = {"data": data, "data_dir": data_dir, "test_split": test_split, "evaluation_crop": evaluation_crop}
    model = load_mixer(run)
    recipe = read_recipe(run)
    wanted = resolve(recipe, **{key: value for key, value in given.items() if value is not None})
    source = other_source(run, recipe, wanted, skip_corrupt)
    own, recipe = source is None, wanted
    if source is None:
        source = run_source(run, recipe, include_new=include_new, skip_corrupt=skip_corrupt)
    else:
        recipe = dataclasses.replace(recipe, holdout=0.0)
    source = with_classes_of(source, model.class_names)
    result = evaluate_source(model, source, recipe, progress=True)
    height, width, _ = recipe.input_shape()
    scores = (f"{result.top1:.2%}", f"{result.top5:.2%}", f"{result.loss:.4f}", f"{result.examples} {recipe.part()}")
    header = ("top-1", "top-5", "loss", "images", "crop", "input")
    print_table(header, [(*scores, recipe.evaluation_crop, f"{height} x {width}")])
    for remark in result.remarks():
        print(remark)
    per_class = result.per_class().tolist()
    rows = zip(source.class_names, per_class, strict=True)
    print_table(("class", "accuracy"), [(name, f"{accuracy:.2%}") for name, accuracy in rows if np.isfinite(accuracy)])
    _print_confusion(result.confusion, source.class_names)
    content = {
        "accuracy": result.top1,
        "top5": result.top5,
        "loss": result.loss if np.isfinite(result.loss) else None,  # JSON has no NaN
        "test_images": result.examples,
        "part": recipe.part(),
        "non_finite": result.non_finite,
        "constant": result.constant,
        "data": source.name,
        "evaluation_crop": recipe.evaluation_crop,
        "image_size": [height, width],
        "class_names": source.class_names,
        "per_class": [value if np.isfinite(value) else None for value in per_class],
        "confusion": result.confusion.tolist(),
    }
    file = output or (run / "evaluation.json" if own else None)
    if file is not None:
        write_json(file, content)
        print(f"\nWritten to {file}.")
    if not own:
        return
    figure = confusion_figure(result.confusion, source.class_names)
    print(f"Written to {write_figure(figure, run / 'confusion.png')}.")


def _print_confusion(confusion, class_names):
    from keras_mixer.inspect.confusion import mistakes

    if len(class_names) <= LARGEST_TABLE:
        rows = [
            (name, *(str(count) if count else "." for count in row))
            for name, row in zip(class_names, confusion.tolist(), strict=True)
        ]
        print("\nConfusion matrix: rows are labels, columns predictions.")
        print_table(("", *class_names), rows)
        return
    print("\nMost frequent errors:")
    rows = [(*pair, str(images), f"{fraction:.1%}") for *pair, images, fraction in mistakes(confusion, class_names)]
    print_table(("label", "prediction", "images", "of the label"), rows)


def fewshot(
    model: Model,
    data: Data,
    data_dir: str | None = None,
    train_split: str = "train",
    test_split: str = "test",
    label: str = "label",
    shots: tuple[int, ...] = SHOTS,
    seeds: tuple[int, ...] = SEEDS,
    l2: float = L2,
    layer: str = "pre_logits",
    evaluation_crop: EvaluationCrop | None = None,
    batch_size: Count = 64,
    output: Path | None = None,
    skip_corrupt: bool = False,
):
    """Train a linear classifier on frozen features from a few images per class, and evaluate it.

    Args:
        model: a finished run directory or .keras file.
        data: digits, an image folder or a TensorFlow Datasets name.
        data_dir: folder with prepared TensorFlow Datasets.
        train_split: split to draw training images from; for ImageNet the paper uses train[:65000].
        test_split: split to evaluate on.
        label: the feature of a TensorFlow Dataset that is to be predicted.
        shots: training images per class.
        seeds: each draws its own training images.
        l2: strength of the L2 regularization; 1024 in big_vision.
        layer: features to use, named as in keras-mixer features.
        evaluation_crop: how images are cropped and resized; the model's own, or else resize-crop, as in the paper.
        batch_size: images per step.
        output: JSON file to write; it must not exist. By default RUN/fewshot.json, or fewshot.json next to a .keras
            file, overwritten by each call.
        skip_corrupt: leave out image files that cannot be decoded.
    """
    from keras_mixer.data.batches import evaluation_batches
    from keras_mixer.data.image_files import naming_damaged_files
    from keras_mixer.data.sources import load_source
    from keras_mixer.evaluation.few_shot import few_shot

    if output is not None:
        refuse_existing(output)
    file = output or folder_of(model) / "fewshot.json"
    loaded = load_mixer(model)
    crop = evaluation_crop or anatomy(loaded).facts.evaluation_crop or "resize-crop"
    source = load_source(data, data_dir, train_split, test_split, label=label, crop=crop, skip_corrupt=skip_corrupt)
    options = {"image_size": loaded.input_shape[1:3], "batch_size": batch_size, "crop": crop}
    train, test = (evaluation_batches(part, **options) for part in (source.train, source.test))
    names = len(source.class_names)
    began = time.perf_counter()
    settings = {"classes": names, "shots": shots, "seeds": seeds, "l2": l2, "layer": layer}
    with naming_damaged_files(source.train, source.test, crop=crop):
        result = few_shot(loaded, train, test, **settings, progress=True)
    accuracies = {count: "  ".join(f"{accuracy:.2%}" for accuracy in result.accuracy[count]) for count in shots}
    rows = [(str(n), f"{result.mean(n):.2%}", accuracies[n], str(result.support[n])) for n in shots]
    print_table(("shots", "accuracy", f"of seeds {', '.join(map(str, seeds))}", "training images"), rows)
    height, width = options["image_size"]
    print(
        f"\n{result.test_images:,} test images of {source.name}, {names} classes, {result.features} features of "
        f"{layer}, {crop} to {height} x {width} px, l2 {l2:g}, {time.perf_counter() - began:.1f} s"
    )
    for remark in result.remarks():
        print(remark)
    content = {"data": source.name, "crop": crop, "image_size": [height, width], "layer": layer, "l2": l2}
    content |= {"seeds": seeds} | dataclasses.asdict(result)
    write_json(file, content)
    print(f"Written to {file}.")


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


def predict(
    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL IMAGE...")],
    server: str | None = None,
    top_k: int = 5,
    timeout: float = 30.0,
    retries: int = 4,
    images_per_request: int = 32,
    header: tuple[str, ...] = (),
    json_output: Annotated[bool, tyro.conf.arg(name="json")] = False,
):
    """Classify image files, with a model or with a server.

    Args:
        paths: a run directory, .keras file, SavedModel, .tflite or .onnx file, OpenVINO folder or .xml file, or
            hf://owner/name/file, followed by image files. With --server, only the images.
        server: use a model on TensorFlow Serving: http://HOST:8501/v1/models/NAME, also https and with a path before
            /v1, with /versions/N or /labels/LABEL at the end for one version.
        top_k: number of classes to show per image.
        timeout: seconds to wait for the server's answer.
        retries: number of retries, with increasing delays, while the server is busy.
        images_per_request: the most images sent to the server at once; halved where it takes fewer.
        header: sent to the server, such as "Authorization: Bearer TOKEN".
        json_output: print JSON instead of a table.
    """
    from keras_mixer.serving import Client

    if len(paths) < (1 if server else 2):
        raise ValueError("Expected a model and at least one image file, or --server and at least one image file.")
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}.")
    trained_on = None
    if server:
        if not all(":" in line for line in header):
            raise ValueError('Expected --header "NAME: VALUE", got a header without a colon.')
        headers = {name.strip(): value.strip() for name, value in (line.split(":", 1) for line in header)}
        client = Client(server, timeout, retries, headers, images_per_request)
        try:
            answers = client.predict(paths, top_k)
        finally:
            client.close()
    else:
        model, *images = paths
        with local_copy(model) as copy:
            predictor = load(copy)
            answers = [_answer(predictor, image, top_k) for image in images]
            trained_on = predictor.description.trained_on
    predictions = [answer for answer in answers if not isinstance(answer, Exception)]
    failed = [answer for answer in answers if isinstance(answer, Exception)]
    for error in failed:
        print(f"error: {error}", file=sys.stderr)
    if json_output:
        print(json.dumps([dataclasses.asdict(prediction) for prediction in predictions], indent=2))
        return int(bool(failed))
    rows = [
        (prediction.image if rank == 0 else "", label, f"{probability:.2%}")
        for prediction in predictions
        for rank, (label, probability) in enumerate(zip(prediction.labels, prediction.probabilities, strict=True))
    ]
    print_table(("image", "class", "probability"), rows)
    if trained_on:
        print(f"\nTrained on {trained_on}: an image of anything else gets one of its classes too.")
    return int(bool(failed))


def _answer(predictor, image, top_k):
    """The prediction for an image file, or the error it raises."""
    try:
        return predictor.predict(image, top_k)
    except (ValueError, OSError) as error:
        return error


def features(
    model: Model,
    data: Data,
    output: Path,
    layer: str = "pre_logits",
    part: Literal["train", "test"] = "test",
    data_dir: str | None = None,
    train_split: str = "train",
    test_split: str = "test",
    label: str = "label",
    batch_size: Count = 64,
    skip_corrupt: bool = False,
):
    """Extract the features of every image of a data set.

    Args:
        model: a finished run directory or .keras file.
        data: digits, an image folder or a TensorFlow Datasets name.
        output: the .npz file to write (features, labels, class_names); it must not exist.
        layer: stem, block_0, ..., block_0/token_mixing, block_0/channel_mixing, ..., normed, pre_logits or logits.
        part: split of the data.
        data_dir: folder with prepared TensorFlow Datasets.
        train_split: name of the training split.
        test_split: name of the test split.
        label: the feature of a TensorFlow Dataset that is stored with the features.
        batch_size: images per step.
        skip_corrupt: leave out image files that cannot be decoded.
    """
    from keras_mixer.data.batches import evaluation_batches
    from keras_mixer.data.image_files import naming_damaged_files
    from keras_mixer.data.sources import image_folder, load_source
    from keras_mixer.evaluation.features_file import write_features

    refuse_existing(output)
    loaded = load_mixer(model)
    crop = evaluation_crop_of(loaded)
    options = {"crop": crop, "skip_corrupt": skip_corrupt, "label": label, "labelled": False}
    if image_folder(data, log=lambda line: None) is None:  # a TensorFlow Dataset may have only the split that is read
        train_split = test_split = train_split if part == "train" else test_split
    source = load_source(data, data_dir, train_split, test_split, **options)
    split = source.train if part == "train" else source.test
    batches = evaluation_batches(split, image_size=loaded.input_shape[1:3], batch_size=batch_size, crop=crop)
    names = source.class_names
    with naming_damaged_files(split, crop=crop):
        write_features(loaded, batches, output, layer=layer, class_names=names, progress=True)
    print(f"Written: {output} ({layer} of {split.size} images, {crop})")

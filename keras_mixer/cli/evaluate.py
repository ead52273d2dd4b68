"""The commands evaluate, fewshot and imagenet, which say how good a model is, and features."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from keras_mixer.cli.terminal import Data, DataOptions, Model, log_of, print_data, print_table
from keras_mixer.data.sources import image_folder, load_source
from keras_mixer.evaluation.accuracy import evaluate_source
from keras_mixer.evaluation.few_shot import L2, SEEDS, SHOTS, few_shot
from keras_mixer.evaluation.outputs import features_of
from keras_mixer.export.predictor import Precision, completed, crop_of, load_model
from keras_mixer.export.runtimes import load
from keras_mixer.features import feature_extractor
from keras_mixer.files import atomic_write, refuse_existing, write_json
from keras_mixer.inspect.figures import confusion_figure, mistakes, write_figure
from keras_mixer.inspect.run_data import batches_of, source_for
from keras_mixer.storage import local_copy, with_addresses
from keras_mixer.training.recipe import Count, EvaluationCrop, settings

MOST_CLASSES = 2000  # of a confusion matrix that is written


@settings
class Evaluate:
    """Evaluate a run on its test data, or any model on other data with the same classes or some of them.

    A run's results on its own test data are kept in RUN/evaluation.json and RUN/confusion.png, others only in --output.
    """

    model: Model  # folder of a finished run, a .keras file, or an export
    data: str | None = None
    """Image folder (all images, or its test sub-folder) or TensorFlow Datasets name; a run's own data by default."""
    source: DataOptions = DataOptions()
    evaluation_crop: EvaluationCrop | None = None  # how images are cropped and resized; the model's own by default
    precision: Precision = "float32"  # bfloat16 is faster on processors with units for it; not for exports
    output: Path | None = None  # JSON file to write; it must not exist
    json: bool = False  # print JSON instead of tables
    csv: Path | None = None  # CSV file to write, one row per class; it must not exist

    def __call__(self):
        refuse_existing(self.output, self.csv)
        with local_copy(self.model) as path:
            log, model = log_of(self), load(path, self.precision)
            given = {"image_size": model.input_shape[:2], "evaluation_crop": model.facts.evaluation_crop}
            given |= self.source.given(data=self.data, evaluation_crop=self.evaluation_crop)
            options = {"skip_corrupt": self.source.skip_corrupt, "log": log}
            source, recipe, is_own = source_for(path, model.class_names, given, only_test=True, **options)
            result = evaluate_source(model, source, recipe, progress=True)
            numbers = result.examples_per_class.tolist(), result.per_class().tolist()
            rows = list(zip(source.class_names, *numbers, strict=True))
            content: dict[str, Any] = {"accuracy": result.top1, "top5": result.top5, "loss": result.loss}
            content |= {"data": source.name, "part": recipe.part() if is_own else "test"}
            content |= {"evaluation_crop": recipe.evaluation_crop, "image_size": recipe.input_shape()[:2]}
            content |= {"precision": self.precision, "test_images": result.examples, "non_finite": result.non_finite}
            content |= {"class_names": source.class_names, "per_class": [accuracy for *_, accuracy in rows]}
            content |= {"confusion": result.confusion.tolist() if len(rows) <= MOST_CLASSES else None}
            if print_data(self, content, ("class", "images", "accuracy"), rows):
                print_evaluation(result, content, rows)
            kept = is_own and self.precision == "float32" and self.source.label is None
            if file := self.output or (path / "evaluation.json" if kept else None):
                write_json(file, content)
                log(f"\nWritten to {with_addresses(file)}.")
            if kept and content["confusion"] and not self.output:
                figure = confusion_figure(result.confusion, source.class_names)
                log(f"Written to {with_addresses(write_figure(figure, path / 'confusion.png'))}.")


def print_evaluation(result, content, rows):
    """Prints the tables of an evaluation."""
    scores = f"{result.top1:.2%}", f"{result.top5:.2%}", f"{result.loss:.4f}", f"{result.examples} {content['part']}"
    how = content["evaluation_crop"], "{} x {}".format(*content["image_size"])
    print_table(("top-1", "top-5", "loss", "images", "crop", "input"), [(*scores, *how)])
    print_table(("class", "accuracy"), [(name, f"{accuracy:.2%}") for name, images, accuracy in rows if images])
    frequent = mistakes(result.confusion, content["class_names"])
    if frequent:
        print("\nMost frequent errors:")
        errors = [(*pair, str(images), f"{fraction:.1%}") for *pair, images, fraction in frequent]
        print_table(("label", "prediction", "images", "of the label"), errors)


@settings
class Fewshot:
    """Train a linear classifier on frozen features from a few images per class, and evaluate it."""

    model: Model  # a finished run directory or .keras file
    data: Data  # digits, an image folder or a TensorFlow Datasets name
    source: DataOptions = DataOptions()
    train_split: str | None = None  # split to draw training images from; for ImageNet big_vision uses train[:65000]
    shots: tuple[Count, ...] = SHOTS  # training images per class
    seeds: tuple[int, ...] = SEEDS  # each draws its own training images
    l2: float = L2  # strength of the L2 regularization; 1024 in big_vision
    layer: str = "pre_logits"  # features to use, named as in keras-mixer features
    evaluation_crop: EvaluationCrop | None = None  # of images; the model's own, or else resize-crop, as in the paper
    output: Path | None = None  # JSON file to write; it must not exist

    def __call__(self):
        refuse_existing(self.output)
        model = completed(load_model(self.model))
        crop = self.evaluation_crop or crop_of(model, "resize-crop")
        size = model.input_shape[1:3]
        given = self.source.given(train_split=self.train_split)
        source = load_source(self.data, **given, skip_corrupt=self.source.skip_corrupt)
        classes = len(source.class_names)
        how = {"shots": self.shots, "seeds": self.seeds, "l2": self.l2, "layer": self.layer}
        with batches_of(model, source.train, source.test, crop=crop) as batches:
            result = few_shot(model, *batches, classes=classes, **how, progress=True)
        columns = {n: [result.mean(n), *accuracies] for n, accuracies in result.accuracy.items()}
        rows = [(str(n), str(result.support[n]), *map("{:.2%}".format, columns[n])) for n in columns]
        print_table(("shots", "training images", "accuracy", *(f"seed {seed}" for seed in self.seeds)), rows)
        print(
            f"\n{result.test_images:,} test images of {source.name}, {classes} classes, {result.features} features of "
            f"{self.layer}, {crop} to {size[0]} x {size[1]} px, l2 {self.l2:g}"
        )
        if self.output is not None:
            write_json(self.output, {"data": source.name, "crop": crop, "image_size": size, **how, **vars(result)})
            print(f"Written to {self.output}.")


@settings
class Imagenet:
    """Measure an ImageNet-1k classifier on ImageNet, ReaL and ImageNet-V2, as far as their data are available."""

    model: Model  # a finished run directory or .keras file with 1000 classes
    data_dir: str | None = None  # of prepared TensorFlow Datasets (imagenet2012, imagenet2012_real, imagenet_v2)
    evaluation_crop: EvaluationCrop | None = None  # of images; by default the model's own, or resmall-crop
    output: Path | None = None  # JSON file to write; it must not exist

    def __call__(self):
        from keras_mixer.evaluation import imagenet  # brings in TensorFlow Datasets, needed only here

        refuse_existing(self.output)
        model = completed(load_model(self.model))
        imagenet.check_classes(model)
        crop, size = self.evaluation_crop or crop_of(model), model.input_shape[1:3]
        rows, absent = [], []
        content: dict[str, Any] = {"evaluation_crop": crop, "image_size": size}
        for name in imagenet.SETS:
            try:
                split = imagenet.split_of(name, self.data_dir)
            except FileNotFoundError as error:
                absent.append(f"{name}: {error}")
                continue
            with batches_of(model, split, crop=crop) as (batches,):
                accuracy, images = imagenet.multi_label_accuracy(model, batches, progress=True)
            rows.append((name, f"{accuracy:.2%}", f"{images:,}", crop, f"{size[0]} x {size[1]}"))
            content[name] = {"accuracy": accuracy, "images": images}
        if not rows:
            raise ValueError("\n  ".join(["Nothing is measured:", *absent]))
        print_table(("data set", "top-1", "images", "crop", "input"), rows)
        if absent:
            print("\nNot measured:", *absent, sep="\n  ")
        if self.output is not None:
            write_json(self.output, content)
            print(f"Written to {self.output}.")


@settings
class Features:
    """Extract the features of the test images (or, with --part train, the training images) of a data set."""

    model: Model  # a finished run directory or .keras file
    data: Data  # digits, an image folder or a TensorFlow Datasets name
    output: Path  # the .npz file to write (features, labels, class_names); it must not exist
    layer: str = "pre_logits"
    """stem, block_0, ..., block_0/token_mixing, block_0/channel_mixing, ..., normed, pre_logits or logits."""
    part: Literal["train", "test"] = "test"  # split of the data
    source: DataOptions = DataOptions()
    train_split: str = "train"  # name of the training split
    json: bool = False  # print JSON instead of a sentence

    def __call__(self):
        refuse_existing(self.output)
        if self.output.suffix != ".npz":
            raise ValueError(f"Expected a path ending in .npz, got {self.output}.")
        model = completed(load_model(self.model))
        crop = crop_of(model)
        extractor = feature_extractor(model, [self.layer])
        given = {"train_split": self.train_split, "test_split": "test"} | self.source.given()
        if image_folder(self.data) is None:  # the other split may not be there
            given |= dict.fromkeys(("train_split", "test_split"), given[f"{self.part}_split"])
        options = {"skip_corrupt": self.source.skip_corrupt, "labelled": False, "log": log_of(self)}
        source = load_source(self.data, **given, **options)
        split = getattr(source, self.part)
        with batches_of(model, split, crop=crop) as (batches,):
            features, labels = features_of(extractor, batches, "features", progress=True, vectors=False)
        with atomic_write(self.output) as temporary:
            np.savez(temporary, features=features, labels=labels, class_names=np.array(source.class_names, "U"))
        content = {"file": str(self.output), "images": split.size, "data": source.name, "crop": crop}
        content |= {"layer": self.layer, "class_names": source.class_names}
        if print_data(self, content):
            print(f"Written: {self.output} ({self.layer} of {split.size} images, {crop})")

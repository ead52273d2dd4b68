"""The commands evaluate, fewshot and imagenet, which say how good a model is, and features."""

import dataclasses
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from keras_mixer.anatomy import anatomy
from keras_mixer.cli.terminal import Data, DataOptions, Model, NewFile, folder_of, log_of, print_data, print_table
from keras_mixer.data.batches import evaluation_batches
from keras_mixer.data.image_files import naming_damaged_files
from keras_mixer.data.sources import image_folder, load_source, with_classes_of
from keras_mixer.evaluation.accuracy import evaluate
from keras_mixer.evaluation.few_shot import L2, SEEDS, SHOTS, few_shot
from keras_mixer.export.predictor import Precision, Predictor, load_mixer
from keras_mixer.export.runtimes import load
from keras_mixer.fields import Count, EvaluationCrop, settings
from keras_mixer.files import write_json
from keras_mixer.storage import as_addresses

LARGEST_TABLE = 20  # largest number of classes for which the confusion matrix is printed
BATCH_SIZE = 64


@settings
class Evaluate:
    """Evaluate a run on its test data, or any model on other data with the same classes or some of them.

    A run's results on its own test data are kept in RUN/evaluation.json and RUN/confusion.png, others only in --output.
    """

    model: Model  # folder of a finished run, a .keras file, or an export of any format but the web page
    data: str | None = None
    """Image folder (all images, or its test sub-folder) or TensorFlow Datasets name; a run's own data by default."""
    source: DataOptions = DataOptions()
    evaluation_crop: EvaluationCrop | None = None  # how images are cropped and resized; the model's own by default
    precision: Precision = "float32"  # bfloat16 is faster on processors with units for it; not for exports
    output: NewFile | None = None  # JSON file to write; it must not exist
    json: bool = False  # print JSON instead of tables
    csv: NewFile | None = None  # CSV file to write, one row per class; it must not exist

    def __call__(self):
        log = log_of(self)
        is_run = all((self.model / name).is_file() for name in ("config.json", "model.keras"))
        result, source, about, own = self._of_run(log) if is_run else self._of_model(log)
        classes = zip(source.class_names, result.examples_per_class.tolist(), result.per_class().tolist(), strict=True)
        rows = [(name, images, accuracy if images else None) for name, images, accuracy in classes]
        loss = result.loss if np.isfinite(result.loss) else None  # JSON has no NaN
        content = {"accuracy": result.top1, "top5": result.top5, "loss": loss, "test_images": result.examples} | about
        content |= {"non_finite": result.non_finite, "constant": result.constant, "data": source.name}
        content |= {"class_names": source.class_names, "per_class": [accuracy for *_, accuracy in rows]}
        content |= {"confusion": result.confusion.tolist(), "precision": self.precision}
        if print_data(self, content, ("class", "images", "accuracy"), rows):
            print_evaluation(result, about, rows)
        file = self.output or (self.model / "evaluation.json" if own else None)
        if file is not None:
            write_json(file, content)
            log(f"\nWritten to {as_addresses(file)}.")
        if own:
            from keras_mixer.inspect.confusion import confusion_figure
            from keras_mixer.inspect.figures import write_figure

            figure = confusion_figure(result.confusion, source.class_names)
            log(f"Written to {as_addresses(write_figure(figure, self.model / 'confusion.png'))}.")

    def _of_run(self, log):
        """The result, the data, what was measured, and whether the data are the run's own."""
        from keras_mixer.training.inputs import evaluate_source, other_source, run_source, wants_own_data
        from keras_mixer.training.recipes import resolve
        from keras_mixer.training.run import read_recipe

        model, recipe = load_mixer(self.model), read_recipe(self.model)
        exact = self.precision == "float32"
        model = model if exact else Predictor.of(model, precision=self.precision).model
        wanted = resolve(recipe, **self.source.given(data=self.data, evaluation_crop=self.evaluation_crop))
        options = {"skip_corrupt": self.source.skip_corrupt, "log": log}
        own = wants_own_data(self.model, recipe, wanted)
        part = wanted.part() if own else "test"
        source = run_source(self.model, wanted, **options) if own else other_source(wanted, **options)
        source = with_classes_of(source, model.class_names, log)
        result, size = evaluate_source(model, source, wanted, progress=True), list(wanted.input_shape()[:2])
        about = {"part": part, "evaluation_crop": wanted.evaluation_crop, "image_size": size}
        return result, source, about, own and exact and wanted.label == recipe.label

    def _of_model(self, log):
        predictor = load(self.model, self.precision)
        if self.data is None:
            raise ValueError(
                f"{self.model} is not a run, which would know its test data. Pass them with --data (an image folder, a "
                "TensorFlow Datasets name or digits)."
            )
        size, split = list(predictor.input_shape[:2]), self.source.test_split or "test"
        crop = self.evaluation_crop or predictor.facts.evaluation_crop
        given = self.source.given(train_split=split, test_split=split)
        options = {"test_fraction": None, "skip_corrupt": self.source.skip_corrupt, "log": log}
        source = with_classes_of(load_source(self.data, **given, **options), predictor.class_names, log)
        batches = evaluation_batches(source.test, image_size=size, batch_size=BATCH_SIZE, crop=crop)
        with naming_damaged_files(source.test):
            result = evaluate(predictor, batches, progress=True)
        return result, source, {"part": "test", "evaluation_crop": crop, "image_size": size}, False


def print_evaluation(result, about, per_class):
    """Prints the tables and remarks of an evaluation."""
    part, crop, (height, width) = about.values()
    scores = f"{result.top1:.2%}", f"{result.top5:.2%}", f"{result.loss:.4f}", f"{result.examples} {part}"
    print_table(("top-1", "top-5", "loss", "images", "crop", "input"), [(*scores, crop, f"{height} x {width}")])
    for remark in result.remarks():
        print(remark)
    print_table(("class", "accuracy"), [(name, f"{found:.2%}") for name, _, found in per_class if found is not None])
    names = [name for name, *_ in per_class]
    if len(names) <= LARGEST_TABLE:
        print("\nConfusion matrix: rows are labels, columns predictions.")
        counts = [[str(count or ".") for count in row] for row in result.confusion.tolist()]
        print_table(("", *names), [(name, *row) for name, row in zip(names, counts, strict=True)])
        return
    from keras_mixer.inspect.confusion import mistakes

    print("\nMost frequent errors:")
    rows = [(*pair, str(images), f"{part:.1%}") for *pair, images, part in mistakes(result.confusion, names)]
    print_table(("label", "prediction", "images", "of the label"), rows)


@settings
class Fewshot:
    """Train a linear classifier on frozen features from a few images per class, and evaluate it."""

    model: Model  # a finished run directory or .keras file
    data: Data  # digits, an image folder or a TensorFlow Datasets name
    source: DataOptions = DataOptions()
    train_split: str | None = None  # split to draw training images from; for ImageNet the paper uses train[:65000]
    shots: tuple[Count, ...] = SHOTS  # training images per class
    seeds: tuple[int, ...] = SEEDS  # each draws its own training images
    l2: float = L2  # strength of the L2 regularization; 1024 in big_vision
    layer: str = "pre_logits"  # features to use, named as in keras-mixer features
    evaluation_crop: EvaluationCrop | None = None  # of images; the model's own, or else resize-crop, as in the paper
    output: NewFile | None = None
    """JSON file to write; it must not exist. By default fewshot.json in the run or next to the file, overwritten."""

    def __call__(self):
        file = self.output or folder_of(self.model) / "fewshot.json"
        model = load_mixer(self.model)
        crop = self.evaluation_crop or anatomy(model).facts.evaluation_crop or "resize-crop"
        size = model.input_shape[1:3]
        given = self.source.given(train_split=self.train_split)
        source = load_source(self.data, **given, skip_corrupt=self.source.skip_corrupt)
        parts = source.train, source.test
        batches = [evaluation_batches(part, image_size=size, batch_size=BATCH_SIZE, crop=crop) for part in parts]
        began, classes = time.perf_counter(), len(source.class_names)
        how = {"shots": self.shots, "seeds": self.seeds, "l2": self.l2, "layer": self.layer}
        with naming_damaged_files(*parts):
            result = few_shot(model, *batches, classes=classes, **how, progress=True)
        accuracies = {n: "  ".join(f"{accuracy:.2%}" for accuracy in result.accuracy[n]) for n in self.shots}
        rows = [(str(n), f"{result.mean(n):.2%}", accuracies[n], str(result.support[n])) for n in self.shots]
        print_table(("shots", "accuracy", f"of seeds {', '.join(map(str, self.seeds))}", "training images"), rows)
        print(
            f"\n{result.test_images:,} test images of {source.name}, {classes} classes, {result.features} features of "
            f"{self.layer}, {crop} to {size[0]} x {size[1]} px, l2 {self.l2:g}, {time.perf_counter() - began:.1f} s"
        )
        for remark in result.remarks():
            print(remark)
        content = {"data": source.name, "crop": crop, "image_size": list(size), **how}
        write_json(file, content | dataclasses.asdict(result))
        print(f"Written to {as_addresses(file)}.")


@settings
class Imagenet:
    """Measure an ImageNet-1k classifier on ImageNet, ReaL and ImageNet-V2, as far as their data are available."""

    model: Model  # a finished run directory or .keras file with 1000 classes
    data_dir: str | None = None  # of prepared TensorFlow Datasets (imagenet2012, imagenet2012_real, imagenet_v2)
    real_labels: Path | None = None  # the authors' real.json, for imagenet2012 instead of imagenet2012_real
    evaluation_crop: EvaluationCrop | None = None  # of images; by default the model's own, or resmall-crop
    output: NewFile | None = None  # JSON file to write; it must not exist

    def __call__(self):
        from keras_mixer.evaluation.imagenet import check_classes

        model = load_mixer(self.model)
        check_classes(model)
        crop, size = self.evaluation_crop or anatomy(model).evaluation_crop, model.input_shape[1:3]
        rows, absent, remarks = [], [], []
        content: dict[str, Any] = {"evaluation_crop": crop, "image_size": list(size)}
        for name, (measure, open_split) in self._sets().items():
            try:
                split = open_split()
            except FileNotFoundError as error:
                absent.append(f"{name}: {error}")
                continue
            batches = evaluation_batches(split, image_size=size, batch_size=BATCH_SIZE, crop=crop)
            with naming_damaged_files(split, advice=""):
                result = measure(model, batches, progress=True)
            rows.append((name, f"{result.top1:.2%}", f"{result.examples:,}", crop, f"{size[0]} x {size[1]}"))
            content[name] = {"accuracy": result.top1, "images": result.examples}
            remarks += [f"{name}: {remark}" for remark in result.remarks()]
        if rows:
            print_table(("data set", "top-1", "images", "crop", "input"), rows)
        for remark in remarks:
            print(remark)
        if absent:
            print("\nNot measured:", *absent, sep="\n  ")
        if self.output is not None:
            write_json(self.output, content)
            print(f"Written to {self.output}.")

    def _sets(self):
        """By name, the function that measures and the one that opens the images."""
        from keras_mixer.evaluation.imagenet import V2_VARIANTS, evaluate_real, real_split, v2_split, validation_split

        sets = {
            "ImageNet": (evaluate, partial(validation_split, self.data_dir)),
            "ReaL": (evaluate_real, partial(real_split, self.data_dir, self.real_labels)),
        }
        return sets | {f"V2 {name}": (evaluate, partial(v2_split, name, self.data_dir)) for name in V2_VARIANTS}


@settings
class Features:
    """Extract the features of the test images (or, with --part train, the training images) of a data set."""

    model: Model  # a finished run directory or .keras file
    data: Data  # digits, an image folder or a TensorFlow Datasets name
    output: NewFile  # the .npz file to write (features, labels, class_names); it must not exist
    layer: str = "pre_logits"
    """stem, block_0, ..., block_0/token_mixing, block_0/channel_mixing, ..., normed, pre_logits or logits."""
    part: Literal["train", "test"] = "test"  # split of the data
    source: DataOptions = DataOptions()
    train_split: str = "train"  # name of the training split
    json: bool = False  # print JSON instead of a sentence

    def __call__(self):
        from keras_mixer.evaluation.outputs import write_features

        model = load_mixer(self.model)
        crop = anatomy(model).evaluation_crop
        given = {"train_split": self.train_split, "test_split": "test"} | self.source.given()
        if image_folder(self.data, log=lambda line: None) is None:  # the other split may not be there
            given |= dict.fromkeys(("train_split", "test_split"), given[f"{self.part}_split"])
        options = {"skip_corrupt": self.source.skip_corrupt, "labelled": False, "log": log_of(self)}
        source = load_source(self.data, **given, **options)
        split = getattr(source, self.part)
        batches = evaluation_batches(split, image_size=model.input_shape[1:3], batch_size=BATCH_SIZE, crop=crop)
        about = {"layer": self.layer, "class_names": source.class_names}
        with naming_damaged_files(split):
            write_features(model, batches, self.output, **about, progress=True)
        content = {"file": str(self.output), "images": split.size, "data": source.name, "crop": crop, **about}
        if print_data(self, content):
            print(f"Written: {self.output} ({self.layer} of {split.size} images, {crop})")

"""The commands predict and features: what a model says of images."""

import contextlib
import dataclasses
import functools
import sys
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tqdm.auto import tqdm

from keras_mixer.cli.terminal import Data, DataOptions, Model, NewFile, bad_input, give, in_words, log_of, print_table
from keras_mixer.data.image_folder import images_below
from keras_mixer.export.predictor import Prediction, load_mixer
from keras_mixer.export.runtimes import load
from keras_mixer.fields import Count, Probability, settings
from keras_mixer.storage import local_copy

MANY_IMAGES = 300  # from this number on, a progress bar is shown


@settings
class Predict:
    """Classify image files and all images in folders, with a model or with a server."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL IMAGE...")]
    """A run directory, .keras file, SavedModel, .tflite or .onnx file, OpenVINO folder or .xml file, or
    hf://owner/name/file, followed by image files, or folders of them at any depth. With --server, only the images."""
    server: str | None = None
    """Use a model on TensorFlow Serving: http://HOST:8501/v1/models/NAME, also https and with a path before /v1, with
    /versions/N or /labels/LABEL at the end for one version."""
    top_k: Count = 5  # largest number of classes to show per image
    threshold: Probability = 0.0  # leave out classes that are less probable; in [0, 1]
    timeout: float = 30.0  # seconds to wait for the server's answer
    retries: int = 4  # number of retries, with increasing delays, while the server is busy
    images_per_request: int = 32  # the most images sent to the server at once; halved where it takes fewer
    header: tuple[str, ...] = ()  # sent to the server, such as "Authorization: Bearer TOKEN"
    json: bool = False  # print JSON instead of a table
    csv: NewFile | None = None  # CSV file to write, one row per image and class; it must not exist

    def __call__(self):
        if len(self.paths) < (1 if self.server else 2):
            raise ValueError("Expected a model and at least one image file, or --server and at least one image file.")
        predictions: list[Prediction] = []
        failed: list[Exception] = []
        with self._classifier() as (answers_to, trained_on):
            images = [file for path in self.paths[0 if self.server else 1 :] for file in files_at(path)]
            few = len(images) < MANY_IMAGES
            for answer in tqdm(answers_to(images), "predicting", len(images), file=sys.stderr, disable=few):
                if isinstance(answer, Exception):
                    failed.append(answer)
                else:
                    predictions.append(self._without_improbable(answer))
        for error in failed:
            print(f"error: {in_words(error)}", file=sys.stderr)
        content = [dataclasses.asdict(prediction) for prediction in predictions]
        rows = [(p.image, *answer) for p in predictions for answer in zip(p.labels, p.probabilities, strict=True)]
        if give(self, content, ("image", "class", "probability"), rows):
            print_predictions(predictions)
            if trained_on:
                print(f"\nTrained on {trained_on}: an image of anything else gets one of its classes too.")
        return int(bool(failed))

    @contextlib.contextmanager
    def _classifier(self):
        """A function that yields an answer for each of some images, and what it was trained on, if that is known."""
        if not self.server:
            with local_copy(self.paths[0]) as model:
                predictor = load(model)
                one = functools.partial(answer, predictor, self.top_k)
                yield functools.partial(map, one), predictor.facts.trained_on
            return
        from keras_mixer.serving import Client

        if not all(":" in line for line in self.header):
            raise ValueError('Expected --header "NAME: VALUE", got a header without a colon.')
        headers = {name.strip(): value.strip() for name, value in (line.split(":", 1) for line in self.header)}
        client = Client(self.server, self.timeout, self.retries, headers, self.images_per_request)
        try:
            yield functools.partial(answers_of, client, self.top_k), None
        finally:
            client.close()

    def _without_improbable(self, prediction) -> Prediction:
        count = sum(not value < self.threshold for value in prediction.probabilities)  # the best are first; NaN stays
        labels, probabilities = prediction.labels[:count], prediction.probabilities[:count]
        return dataclasses.replace(prediction, labels=labels, probabilities=probabilities)


def files_at(path) -> list:
    """The image files in a folder at any depth; for anything else the path, which is read or complained about."""
    return (images_below(path) if path.is_dir() else []) or [path]


def answer(predictor, top_k, image) -> Prediction | Exception:
    """The prediction for an image file, or the error that it raises."""
    try:
        return predictor.predict(image, top_k)
    except bad_input() as error:
        return error


def answers_of(client, top_k, images):
    """Yields what a server answers for each image, or why it cannot be read."""
    done = 0
    while done < len(images):
        part = images[done : done + client.images_per_request]
        yield from client.predict(part, top_k)
        done += len(part)


def print_predictions(predictions):
    """Prints one row for each class of each image, and one for an image without any."""
    rows = []
    for one in predictions:
        answers = zip(one.labels, (f"{value:.2%}" for value in one.probabilities), strict=True)
        rows += [("" if rank else one.image, *row) for rank, row in enumerate(list(answers) or [("(none)", "")])]
    print_table(("image", "class", "probability"), rows)


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
    batch_size: Count = 64  # images per step
    json: bool = False  # print JSON instead of a sentence

    def __call__(self):
        from keras_mixer.anatomy import anatomy
        from keras_mixer.data.batches import evaluation_batches
        from keras_mixer.data.image_files import naming_damaged_files
        from keras_mixer.data.sources import image_folder, load_source
        from keras_mixer.evaluation.features_file import write_features

        model = load_mixer(self.model)
        crop = anatomy(model).evaluation_crop
        given = {"train_split": self.train_split, "test_split": "test"} | self.source.given()
        if image_folder(self.data, log=lambda line: None) is None:  # the other split may not be there
            given |= dict.fromkeys(("train_split", "test_split"), given[f"{self.part}_split"])
        options = {"crop": crop, "skip_corrupt": self.source.skip_corrupt, "labelled": False, "log": log_of(self)}
        source = load_source(self.data, **given, **options)
        split = source.train if self.part == "train" else source.test
        batches = evaluation_batches(split, image_size=model.input_shape[1:3], batch_size=self.batch_size, crop=crop)
        about = {"layer": self.layer, "class_names": source.class_names}
        with naming_damaged_files(split, crop=crop):
            write_features(model, batches, self.output, **about, progress=True)
        content = {"file": str(self.output), "images": split.size, "data": source.name, "crop": crop, **about}
        if give(self, content):
            print(f"Written: {self.output} ({self.layer} of {split.size} images, {crop})")

"""The command predict: what a model or a server says of images."""

import contextlib
import dataclasses
import functools
import sys
from pathlib import Path
from typing import Annotated

import tyro
from tqdm.auto import tqdm

from keras_mixer.cli.terminal import BAD_INPUT, NewFile, in_words, print_data, print_table
from keras_mixer.data.image_folder import images_below
from keras_mixer.export.predictor import Precision, Prediction
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
    precision: Precision = "float32"  # bfloat16 is faster on processors with units for it; not for exports and servers
    timeout: float = 30.0  # seconds to wait for the server's answer
    retries: int = 4  # number of retries, with increasing delays, while the server is busy
    images_per_request: int = 32  # the most images sent to the server at once; halved where it takes fewer
    header: tuple[str, ...] = ()  # sent to the server, such as "Authorization: Bearer TOKEN"
    json: bool = False  # print JSON instead of a table
    csv: NewFile | None = None  # CSV file to write, one row per image and class; it must not exist

    def __call__(self):
        if len(self.paths) < (1 if self.server else 2):
            raise ValueError("Expected a model and at least one image file, or --server and at least one image file.")
        with self._classifier() as (answers_to, trained_on):
            images = [file for path in self.paths[0 if self.server else 1 :] for file in files_at(path)]
            few = len(images) < MANY_IMAGES
            answers = list(tqdm(answers_to(images), "predicting", len(images), file=sys.stderr, disable=few))
        failed = [error for error in answers if isinstance(error, Exception)]
        for error in failed:
            print(f"error: {in_words(error)}", file=sys.stderr)
        predictions = [self._without_improbable(one) for one in answers if isinstance(one, Prediction)]
        rows = [(p.image, *answer) for p in predictions for answer in zip(p.labels, p.probabilities, strict=True)]
        if print_data(self, list(map(dataclasses.asdict, predictions)), ("image", "class", "probability"), rows):
            print_predictions(predictions)
            if trained_on:
                print(f"\nTrained on {trained_on}: an image of anything else gets one of its classes too.")
        return int(bool(failed))

    @contextlib.contextmanager
    def _classifier(self):
        """A function that yields an answer for each of some images, and what it was trained on, if that is known."""
        if not self.server:
            with local_copy(self.paths[0]) as model:
                predictor = load(model, self.precision)
                one = functools.partial(answer, predictor, self.top_k)
                yield functools.partial(map, one), predictor.facts.trained_on
            return
        from keras_mixer.serving import Client

        if not all(":" in line for line in self.header):
            raise ValueError('Expected --header "NAME: VALUE", got a header without a colon.')
        headers = {name.strip(): value.strip() for name, value in (line.split(":", 1) for line in self.header)}
        client = Client(self.server, self.timeout, self.retries, headers, self.images_per_request)
        try:
            yield functools.partial(client.predict, top_k=self.top_k), None
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
    except BAD_INPUT as error:
        return error


def print_predictions(predictions):
    """Prints one row for each class of each image, and one for an image without any."""
    rows = []
    for one in predictions:
        answers = zip(one.labels, (f"{value:.2%}" for value in one.probabilities), strict=True)
        rows += [("" if rank else one.image, *row) for rank, row in enumerate(list(answers) or [("(none)", "")])]
    print_table(("image", "class", "probability"), rows)

"""The command predict: classifies images with a model or a server."""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import tyro
from tqdm.auto import tqdm

from keras_mixer.cli.terminal import BAD_INPUT, in_words, print_data, print_table
from keras_mixer.data.decode import NotAnImage
from keras_mixer.data.image_folder import check_file, files_below
from keras_mixer.export.predictor import Precision, Prediction
from keras_mixer.export.runtimes import load
from keras_mixer.files import refuse_existing
from keras_mixer.serving import Client
from keras_mixer.training.recipe import Count, Probability, settings

SOON = 5.0  # seconds, after which a progress bar is shown


@settings
class Predict:
    """Classify image files and all images in folders, with a model or with a server."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="MODEL IMAGE...")]
    """A run directory, .keras file, SavedModel, .tflite or .onnx file, OpenVINO folder or .xml file, web page, or
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
    csv: Path | None = None  # CSV file to write, one row per image and class; it must not exist

    def __call__(self):
        refuse_existing(self.csv)
        paths, trained_on = self.paths if self.server else self.paths[1:], None
        if not paths:
            raise ValueError("Expected a model and at least one image file, or --server and at least one image file.")
        # A folder is its images at any depth; anything else is read or complained about.
        images = [file for path in paths for file in (path.is_dir() and _images_below(path)) or [str(path)]]
        if self.server:
            if wrong := [line for line in self.header if ":" not in line]:
                raise ValueError(f'Expected --header "NAME: VALUE", got {wrong[0]!r}.')
            headers = {name: value.strip() for name, value in (line.split(":", 1) for line in self.header)}
            client = Client(self.server, self.timeout, self.retries, headers, self.images_per_request)
            answered = client.predict(images, self.top_k)
        else:
            predictor = load(self.paths[0], self.precision)
            answered = (answer(predictor, self.top_k, image) for image in images)
            trained_on = predictor.facts.trained_on
        answers = list(tqdm(answered, "predicting", len(images), file=sys.stderr, delay=SOON))
        failed = [error for error in answers if isinstance(error, Exception)]
        for error in failed:
            print(f"error: {in_words(error)}", file=sys.stderr)
        predictions = [self._without_improbable(one) for one in answers if isinstance(one, Prediction)]
        header = "image", "class", "probability"
        rows = [(p.image, *answer) for p in predictions for answer in zip(p.labels, p.probabilities, strict=True)]
        if print_data(self, list(map(dataclasses.asdict, predictions)), header, rows):
            table = [(image, label, f"{value:.2%}") for image, label, value in rows]
            table += [(one.image, "(none)", "") for one in predictions if not one.labels]
            print_table(header, table)
            if trained_on:
                print(f"\nTrained on {trained_on}: an image of anything else gets one of its classes too.")
        return int(bool(failed))

    def _without_improbable(self, prediction) -> Prediction:
        count = sum(not value < self.threshold for value in prediction.probabilities)  # the best are first; NaN stays
        labels, probabilities = prediction.labels[:count], prediction.probabilities[:count]
        return dataclasses.replace(prediction, labels=labels, probabilities=probabilities)


def _images_below(folder) -> list[str]:
    """Paths of the images below a folder, in order, damaged ones too."""
    found = []
    for path in files_below(folder, follow_links=False):
        try:
            check_file(f"{folder}/{path}")
        except NotAnImage:
            continue
        except ValueError:
            pass  # which is said when it is read
        found.append(f"{folder}/{path}")
    return found


def answer(predictor, top_k, image) -> Prediction | Exception:
    """The prediction for an image file, or the error that it raises."""
    try:
        return predictor.predict(image, top_k)
    except BAD_INPUT as error:
        return error

"""Classifies image files with a model on TensorFlow Serving, over its REST API."""

import base64
from collections.abc import Iterator
from typing import Any

import pydantic
import pydantic_core
import urllib3

from keras_mixer.export.predictor import Prediction, read_image
from keras_mixer.export.saved_model import for_server
from keras_mixer.training.recipe import Count, check

NAME = "image_bytes"  # of the signature of `export_saved_model`, and of its input
UNREADABLE = "cannot be decoded"  # in the message of that signature
EXPLAINED = {  # statuses of servers and of proxies before them
    413: "it takes no request of this size: raise the limit of the proxy",
    429: "it limits the number of requests",
    502: "a proxy got no answer from TensorFlow Serving",
    503: "it is busy or starting",
    504: "a proxy did not wait long enough: send fewer images, or raise its time limit",
}
RETRIED = (429, 502, 503, 504)
BACKOFF = 0.2  # seconds before the second retry; doubled for each further one


class ServingError(OSError):
    """A server could not be reached, is not ready, or does not have the requested model."""


@pydantic.dataclasses.dataclass(frozen=True)  # which ignores other outputs of a signature
class Answer:
    """Of the served model for one image: all probabilities in class order, and the best classes, best first."""

    probabilities: list[float]
    classes: list[pydantic.NonNegativeInt]
    labels: list[str]

    def best(self, path, top_k) -> Prediction:
        """The `top_k` best classes, or all that the answer names."""
        probabilities = tuple(self.probabilities[number] for number in self.classes[:top_k])
        return Prediction(path, tuple(self.labels[:top_k]), probabilities)


class Client:
    """One model of one server; safe to share between threads.

    Args:
        url: `http://HOST:8501/v1/models/NAME`, or https, without a port, with a path before `/v1`; followed by
            `/versions/N` or `/labels/LABEL` for one version.
        timeout: seconds to wait for each answer.
        retries: how often to send a request again, after increasing delays, to a busy server (429, 502, 503, 504).
        headers: sent with every request, such as `{"Authorization": "Bearer TOKEN"}`.
        images_per_request: the most images in one request; one that the server finds too large is sent in halves.

    Raises:
        ValueError: the address is not one of HTTP, or `images_per_request` is less than 1.
    """

    def __init__(self, url, timeout=30.0, retries=4, headers=None, images_per_request=32):
        self.url = str(url).rstrip("/")
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"Expected an address such as http://HOST:8501/v1/models/NAME, got {url!r}.")
        self.images_per_request = check("images_per_request", images_per_request, Count)
        retry = urllib3.Retry(retries, connect=False, read=False, other=0, redirect=False, status_forcelist=RETRIED)
        retry = retry.new(allowed_methods=None, backoff_factor=BACKOFF, raise_on_status=False)  # POST changes nothing
        retry.respect_retry_after_header = False  # which may be hours
        self._pool = urllib3.PoolManager(maxsize=32, retries=retry, timeout=urllib3.Timeout(timeout), headers=headers)
        self.close = self._pool.clear

    def predict(self, paths, top_k=5) -> Iterator[Prediction | Exception]:
        """Yields, in order, the most probable classes of image files, or why a file cannot be classified.

        They are `top_k`, or as many as the model was exported with. Files that the served graph does not read, of other
        formats than JPEG and PNG or with an EXIF orientation, are sent as PNG. ServingError if it fails.
        """
        paths, top_k = list(map(str, paths)), check("top_k", top_k, Count)
        for start in range(0, len(paths), self.images_per_request):
            some = paths[start : start + self.images_per_request]
            found = {path: _encoded(path) for path in some}
            found |= self._answers([(path, one) for path, one in found.items() if isinstance(one, bytes)], top_k)
            yield from (found[path] for path in some)

    def _answers(self, files, top_k) -> dict[str, Any]:
        """By path, of `(path, encoded)`; a request that is invalid or too large is sent in halves."""
        try:
            answers = self.classify([encoded for _, encoded in files]) if files else []
        except ValueError as error:
            if len(files) > 1:
                half = len(files) // 2
                return self._answers(files[:half], top_k) | self._answers(files[half:], top_k)
            reason = "the server cannot decode it" if UNREADABLE in str(error) else error
            return {files[0][0]: ValueError(f"{files[0][0]}: {reason}.")}
        return {path: answer.best(path, top_k) for (path, _), answer in zip(files, answers, strict=True)}

    def classify(self, images) -> list[Answer]:
        """The answers for encoded JPEG and PNG images, in one request; ValueError if one is broken or all too large."""
        instances = [{NAME: {"b64": base64.b64encode(image).decode()}} for image in images]
        body = {"signature_name": NAME, "instances": instances}
        try:
            response = self._pool.request("POST", f"{self.url}:predict", json=body)
        except urllib3.exceptions.HTTPError as error:
            raise ServingError(
                f"{self.url} gave no answer: {getattr(error, 'reason', None) or error}. Is TensorFlow "
                "Serving running there, as http://HOST:8501/v1/models/NAME? If it is slow, raise --timeout."
            ) from error
        if response.status == 200:
            return answers_in(response.data, len(images))
        status, text = response.status, response.data.decode(errors="replace")
        rejected = status == 413 or (status == 400 and (UNREADABLE in text or "Task size" in text))
        told = f"{self.url} answered {status} {response.reason}: {EXPLAINED.get(status, text):.1000}"
        raise (ValueError if rejected else ServingError)(told)


def answers_in(content, count) -> list[Answer]:
    """The answers for `count` images in the JSON that a server sends; ServingError if they are malformed."""
    try:
        rows = check("predictions", pydantic_core.from_json(content)["predictions"], list[Answer])
        sound = (len(row.classes) == len(row.labels) and max(row.classes) < len(row.probabilities) for row in rows)
        if len(rows) != count or not all(sound):
            raise ValueError(f"{rows} for {count} images")
    except (ValueError, KeyError, TypeError) as error:
        raise ServingError(f"The answer is not that of a model exported by this package ({error!s:.300}).") from error
    return rows


def _encoded(path) -> Any:
    try:
        return read_image(path, for_server).numpy()
    except (ValueError, OSError) as error:
        return error

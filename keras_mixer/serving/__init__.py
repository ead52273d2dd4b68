"""Classifies image files with a model on TensorFlow Serving, over REST.

Source: TensorFlow Serving's "RESTful API".
"""

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import pydantic
import urllib3

from keras_mixer.data.decode import for_server
from keras_mixer.data.image_files import read_image
from keras_mixer.export.predictor import Prediction
from keras_mixer.fields import check

NAME = "image_bytes"  # of the signature of `export_saved_model`, and of its input
UNREADABLE = "cannot be decoded"  # in the message of that signature
ADDRESS = re.compile(r"(https?://[^/?#]+(?:/[^?#]*?)?/v1/models/([^/:?#]+))(/versions/\d+|/labels/[^/:?#]+)?/?")
EXPLAINED = {  # statuses of servers and of proxies before them
    401: 'it needs a token: pass --header "Authorization: Bearer TOKEN"',
    403: "it does not allow this: is the token in --header right?",
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


class Rejected(ServingError):
    """A request has an image that cannot be decoded, or too many images."""


@pydantic.dataclasses.dataclass(frozen=True)  # which ignores other outputs of a signature
class Answer:
    """Of the served model for one image: all probabilities in class order, and the best classes, best first."""

    probabilities: list[float]
    classes: list[pydantic.NonNegativeInt]
    labels: list[str]


class Client:
    """One model of one server; safe to share between threads.

    Args:
        url: `http://HOST:8501/v1/models/NAME`, or https, without a port, with a path before `/v1`; followed by
            `/versions/N` or `/labels/LABEL` for one version.
        timeout: seconds to wait for each answer.
        retries: how often to send a request again, after increasing delays, to a busy server (429, 502, 503, 504).
        headers: sent with every request, such as `{"Authorization": "Bearer TOKEN"}`.
        images_per_request: the most images in one request; halved where the server takes fewer.

    Raises:
        ValueError: the URL has another form, or a number is out of range.
    """

    def __init__(self, url, timeout=30.0, retries=4, headers=None, images_per_request=32):
        match = ADDRESS.fullmatch(str(url))
        if match is None:
            raise ValueError(
                "Expected a server like http://HOST:8501/v1/models/NAME, with /versions/N or /labels/LABEL at the end "
                f"for one version, got {url!r}."
            )
        if timeout <= 0 or retries < 0 or images_per_request < 1:
            raise ValueError("Expected timeout > 0, retries >= 0 and images_per_request >= 1.")
        self.url, self.model = f"{match[1]}{match[3] or ''}", match[2]
        self.host = urllib3.util.parse_url(str(url)).netloc
        self.timeout, self.retries, self.images_per_request = timeout, retries, images_per_request
        how: dict[str, Any] = {"connect": False, "read": False, "other": 0, "raise_on_status": False}
        how |= {"allowed_methods": None, "backoff_factor": BACKOFF, "backoff_jitter": BACKOFF}  # POST changes nothing
        retry = urllib3.Retry(retries, status_forcelist=RETRIED, **how)
        self._pool = urllib3.PoolManager(maxsize=32, retries=retry, timeout=urllib3.Timeout(timeout), headers=headers)
        self.close = self._pool.clear

    def predict(self, paths, top_k=5) -> Iterator[Prediction | Exception]:
        """Yields, in order, the `top_k` most probable classes of image files, or why a file cannot be read.

        JPEG and PNG files are sent as they are. Images of other formats, and photographs with an EXIF orientation,
        which the served graph does not read, are decoded here and sent as PNG, which keeps every pixel. ValueError if
        the model was exported with a smaller `top_k`, `ServingError` if the server failed.
        """
        paths = list(map(str, paths))
        while paths:
            some, paths = paths[: self.images_per_request], paths[self.images_per_request :]
            images = [_encoded(path) for path in some]
            readable = [pair for pair in zip(some, images, strict=True) if isinstance(pair[1], bytes)]
            answers = iter(self._answers(readable, top_k) if readable else ())
            yield from (next(answers) if isinstance(image, bytes) else image for image in images)

    def _answers(self, files, top_k) -> list[Prediction | Exception]:
        """Of `(path, encoded)`; a request that is invalid or too large is sent in halves."""
        try:
            rows = self.classify([encoded for _, encoded in files])
        except Rejected as error:
            if len(files) == 1 and UNREADABLE in str(error):
                return [ValueError(f"{files[0][0]}: the server cannot decode it.")]
            if len(files) == 1:
                raise
            half = len(files) // 2
            if UNREADABLE not in str(error):  # too large
                self.images_per_request = min(self.images_per_request, half)
            return self._answers(files[:half], top_k) + self._answers(files[half:], top_k)
        return [_prediction(path, row, top_k) for (path, _), row in zip(files, rows, strict=True)]

    def classify(self, images) -> list[Answer]:
        """The answers for encoded images (JPEG or PNG as bytes), in one request."""
        instances = [{NAME: {"b64": base64.b64encode(image).decode()}} for image in images]
        body = {"signature_name": NAME, "instances": instances}
        return answers_in(self._request(body), len(images))

    def _request(self, body):
        try:
            response = self._pool.request("POST", f"{self.url}:predict", json=body)
        except urllib3.exceptions.HTTPError as error:
            raise ServingError(
                f"{self.host} gave no answer: {getattr(error, 'reason', None) or error}. Is TensorFlow Serving running "
                "there (REST port, 8501)? If it is slow, raise --timeout or send fewer images."
            ) from error
        status, start = response.status, f"{self.host} answered {response.status} {response.reason}"
        if status in EXPLAINED:
            attempts = f" to {self.retries + 1} attempts" if status in RETRIED else ""
            raise (Rejected if status == 413 else ServingError)(f"{start}{attempts}: {EXPLAINED[status]}.")
        content = content_of(response.data, start)
        message = str(content.get("error", content))
        if status == 400 and (UNREADABLE in message or "Task size" in message):
            raise Rejected(message)
        if status == 400 and "signature" in message.lower():
            raise ServingError(
                f"Model {self.model!r} at {self.host} has no signature {NAME!r}: it was not exported by this package, "
                f"or does not take RGB images. The server's message: {message}"
            )
        if status != 200:
            raise ServingError(f"{start}: {message}")
        return content


def content_of(data: bytes, start) -> dict:
    """The JSON object of an answer; ServingError if it is not JSON."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ServingError(
            f"{start} with something that is not JSON: is it the REST port of TensorFlow Serving? {data[:200]!r}"
        ) from error
    return content if isinstance(content, dict) else {"error": content}


def answers_in(content, count) -> list[Answer]:
    """The answers for `count` images; ServingError if they are malformed."""
    try:
        rows = check("predictions", content.get("predictions"), list[Answer])
        for row in rows:
            if len(row.classes) != len(row.labels) or max(row.classes, default=0) >= len(row.probabilities):
                raise ValueError(f"classes {row.classes!r:.100}, labels {row.labels!r:.100}")
        if len(rows) != count:
            raise ValueError(f"{len(rows)} answers for {count} images")
    except ValueError as error:
        why = f"({' '.join(str(error).split()):.300})"
        raise ServingError(f"The answer is not that of a model exported by this package {why}.") from error
    return rows


def _encoded(path) -> bytes | Exception:
    try:
        return read_image(path, for_server).numpy()
    except (ValueError, OSError) as error:
        return error


def _prediction(path, answer, top_k) -> Prediction:
    if len(answer.labels) < min(top_k, len(answer.probabilities)):
        count = len(answer.labels)
        raise ValueError(
            f"The served model returns only its {count} best classes; use --top-k {count}, or export it again with "
            f"--top-k {top_k}."
        )
    probabilities = tuple(answer.probabilities[number] for number in answer.classes[:top_k])
    return Prediction(path, tuple(answer.labels[:top_k]), probabilities)

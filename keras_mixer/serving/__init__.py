"""Classifies image files with a model on TensorFlow Serving, over REST.

Source: TensorFlow Serving's "RESTful API".
"""

import base64
import json
import operator
import re
from pathlib import Path

import urllib3

from keras_mixer.data.decode import for_server
from keras_mixer.data.image_files import read_image
from keras_mixer.export.predictor import Prediction

NAME = "image_bytes"  # of the signature of `export_saved_model`, and of its input
UNREADABLE = "cannot be decoded"  # in the message of that signature
ADDRESS = re.compile(r"(https?://[^/?#]+(?:/[^?#]*?)?/v1/models/([^/:?#]+))(/versions/\d+|/labels/[^/:?#]+)?/?")
STATUSES = {  # of servers and of proxies before them; the first four may pass
    429: "it limits the number of requests",
    502: "a proxy got no answer from TensorFlow Serving",
    503: "it is busy or starting",
    504: "a proxy did not wait long enough: send fewer images, or raise its time limit",
    401: 'it needs a token: pass --header "Authorization: Bearer TOKEN"',
    403: "it does not allow this: is the token in --header right?",
    413: "it takes no request of this size: raise the limit of the proxy (client_max_body_size of nginx)",
}
RETRIED = (429, 502, 503, 504)


class ServingError(OSError):
    """A server could not be reached, is not ready, or does not have the requested model."""


class Rejected(ServingError):
    """A request has an image that cannot be decoded, or too many images."""


class Client:
    """One model of one server; safe to share between threads.

    Args:
        url: `http://HOST:8501/v1/models/NAME`, or https, without a port, with a path before `/v1`; followed by
            `/versions/N` or `/labels/LABEL` for one version.
        timeout: seconds to wait for each answer.
        retries: how often to send a request again, after increasing delays, to a busy server (429, 502, 503, 504).
        headers: sent with every request, such as `{"Authorization": "Bearer TOKEN"}`.
        images_per_request: the most images in one request; halved where the server takes fewer.
        backoff: seconds before the second retry.

    Raises:
        ValueError: the URL has another form, or a number is out of range.
    """

    def __init__(self, url, timeout=30.0, retries=4, headers=None, images_per_request=32, backoff=0.2):
        match = ADDRESS.fullmatch(str(url))
        if match is None:
            raise ValueError(
                "Expected a server like http://HOST:8501/v1/models/NAME, with /versions/N or /labels/LABEL at the end "
                f"for one version, got {url!r}."
            )
        if timeout <= 0 or retries < 0 or images_per_request < 1:
            raise ValueError("Expected timeout > 0, retries >= 0 and images_per_request >= 1.")
        self.url, self.model, self.version = match[1], match[2], match[3] or ""
        self.host = urllib3.util.parse_url(str(url)).netloc
        self.timeout, self.retries, self.images_per_request = timeout, retries, images_per_request
        retry = urllib3.Retry(
            retries,
            connect=False,
            read=False,
            other=0,
            status_forcelist=RETRIED,
            allowed_methods=None,  # predictions change nothing, so POST may be repeated
            backoff_factor=backoff,
            backoff_jitter=backoff,
            raise_on_status=False,
        )
        self._pool = urllib3.PoolManager(maxsize=32, retries=retry, timeout=urllib3.Timeout(timeout), headers=headers)
        self.close = self._pool.clear

    def predict(self, paths, top_k=5) -> list[Prediction | Exception]:
        """The `top_k` most probable classes of image files in order, or why a file cannot be read.

        JPEG and PNG files are sent as they are. Images of other formats, and photographs with an EXIF orientation,
        which the served graph does not read, are decoded here and sent as PNG, which keeps every pixel. ValueError if
        the model was exported with a smaller `top_k`, `ServingError` if the server failed.
        """
        found: dict[int, Prediction | Exception] = {}
        waiting: list[tuple[int, str, bytes]] = []
        for i, path in enumerate(map(Path, paths)):
            try:
                waiting.append((i, str(path), read_image(path, for_server).numpy()))
            except (ValueError, OSError) as error:
                found[i] = error
            if waiting and (len(waiting) >= self.images_per_request or i == len(paths) - 1):
                found |= self._answers(waiting, top_k)
                waiting = []
        return [found[i] for i in range(len(paths))]

    def _answers(self, files, top_k) -> dict[int, Prediction | Exception]:
        """The predictions of `(number, path, encoded)`; a request that is invalid or too large is sent in halves."""
        try:
            rows = self.classify([encoded for *_, encoded in files])
        except Rejected as error:
            number, path, _ = files[0]
            if len(files) == 1 and UNREADABLE in str(error):
                return {number: ValueError(f"{path}: the server cannot decode it.")}
            if len(files) == 1:
                raise
            half = len(files) // 2
            if UNREADABLE not in str(error):  # too large
                self.images_per_request = min(self.images_per_request, half)
            return self._answers(files[:half], top_k) | self._answers(files[half:], top_k)
        return {number: _prediction(path, row, top_k) for (number, path, _), row in zip(files, rows, strict=True)}

    def classify(self, images) -> list[tuple]:
        """`(probabilities, classes, labels)` of encoded images (JPEG or PNG as bytes), in one request."""
        instances = [{NAME: {"b64": base64.b64encode(image).decode()}} for image in images]
        body = {"signature_name": NAME, "instances": instances}
        return answers_in(self._request("POST", f"{self.url}{self.version}:predict", json=body), len(images))

    def _request(self, method, url, **body):
        try:
            response = self._pool.request(method, url, **body)
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(getattr(error, "reason", None) or error) from error
        status, start = response.status, f"{self.host} answered {response.status}"
        if status in STATUSES:
            attempts = f" to {self.retries + 1} attempts" if status in RETRIED else ""
            raise (Rejected if status == 413 else ServingError)(f"{start}{attempts}: {STATUSES[status]}.")
        content = content_of(response.data, start)
        message = str(content.get("error", content))
        if status == 404 and method == "POST":
            raise ServingError(self._why_not_found(message))
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

    def _unreachable(self, cause):
        if "refused" in str(cause):
            return ServingError(
                f"{self.host}: connection refused. Is TensorFlow Serving running there (REST port, 8501)?"
            )
        late = isinstance(cause, urllib3.exceptions.TimeoutError)
        if late and not isinstance(cause, urllib3.exceptions.NewConnectionError):  # in some versions both
            return ServingError(
                f"{self.host} did not answer within {self.timeout:g} s; raise --timeout or send fewer images."
            )
        return ServingError(f"The request to {self.host} failed; is this the REST port of a server? {cause}")

    def _why_not_found(self, message):
        """Explains "servable not found" by the state of the model's versions on the server."""
        try:
            known = self._request("GET", self.url)["model_version_status"]
            states = {int(one["version"]): (str(one["state"]), str(one["status"]["error_message"])) for one in known}
        except (ServingError, KeyError, TypeError, ValueError):
            return f"The server at {self.host} has no model {self.model!r}; check its name. It says: {message}"
        wanted = int(self.version.rsplit("/", 1)[1]) if self.version.startswith("/versions") else max(states, default=0)
        if wanted not in states:
            return f"Model {self.model!r} at {self.host} has no version {wanted}; it has {', '.join(map(str, states))}."
        state, error = states[wanted]
        loading = state in ("UNKNOWN", "START", "LOADING") and not error
        what = "is still loading; try again soon" if loading else f"failed to load ({state}): {error or message}"
        return f"Version {wanted} of model {self.model!r} at {self.host} {what}."


def content_of(data: bytes, start) -> dict:
    """The JSON object of an answer; ServingError if it is not JSON."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ServingError(
            f"{start} with something that is not JSON: is it the REST port of TensorFlow Serving? {data[:200]!r}"
        ) from error
    return content if isinstance(content, dict) else {"error": content}


def answers_in(content, count) -> list[tuple]:
    """`(probabilities, classes, labels)` of `count` images in an answer; ServingError if it is malformed."""
    rows = []
    try:
        for row in content["predictions"]:
            probabilities = [float(p) for p in row["probabilities"]]
            classes, labels = [operator.index(c) for c in row["classes"]], [str(label) for label in row["labels"]]
            if not all(0 <= number < len(probabilities) for number in classes) or len(labels) != len(classes):
                raise ValueError(f"classes {classes!r:.100}, labels {labels!r:.100}")
            rows.append((probabilities, classes, labels))
        if len(rows) != count:
            raise ValueError(f"{len(rows)} answers for {count} images")
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ServingError(
            f"The answer is not that of a model exported by this package, or of TensorFlow Serving ({error!r:.300})."
        ) from error
    return rows


def _prediction(path, row, top_k):
    probabilities, classes, labels = row
    if len(labels) < min(top_k, len(probabilities)):
        raise ValueError(
            f"The served model returns only its {len(labels)} best classes; use --top-k {len(labels)}, or export it "
            f"again with --top-k {top_k}."
        )
    return Prediction(path, tuple(labels[:top_k]), tuple(probabilities[number] for number in classes[:top_k]))

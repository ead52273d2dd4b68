"""TensorFlow Serving over REST.

Source: TensorFlow Serving's "RESTful API".
"""

import base64
import json
from typing import Any

import urllib3

from keras_mixer.serving.protocol import (
    INPUT,
    MALFORMED,
    OUTPUTS,
    RETRIES,
    SIGNATURE,
    Address,
    Answer,
    ServingError,
    VersionStatus,
    busy,
    checked_answers,
    refused,
    rejected,
    timed_out,
    unexpected,
    why_not_found,
)

NOT_FOUND, BAD_REQUEST, UNAVAILABLE, TIMED_OUT = 404, 400, 503, 504


class RestClient:
    """One model of one server; safe to share between threads.

    Args:
        address: where it is.
        timeout: seconds until an answer must be there.
        retries: how often to ask again when the server is unavailable (503), each time waiting twice as long.
        backoff: seconds before the second repetition; about as long again is drawn at random on top.
    """

    def __init__(self, address: Address, timeout=30.0, retries=RETRIES, backoff=0.2):
        self.address, self.timeout, self.retries = address, timeout, retries
        again = urllib3.Retry(
            total=None,
            connect=0,
            read=0,
            status=retries,
            other=0,
            redirect=0,
            status_forcelist=[UNAVAILABLE],
            allowed_methods=None,  # predictions change nothing, so POST may be repeated
            backoff_factor=backoff,
            backoff_jitter=backoff,
            raise_on_status=False,
        )
        self._pool = urllib3.PoolManager(maxsize=32, retries=again, timeout=urllib3.Timeout(timeout))
        self._models = f"{address.scheme}://{address.host}/v1/models/{address.model}"
        self._version = "" if address.version is None else f"/versions/{address.version}"

    def status(self) -> list[VersionStatus]:
        """All versions of the model; empty when the server does not know it.

        Raises:
            ServingError: the server cannot be reached.
        """
        code, content = self._request("GET", self._models)
        if code == NOT_FOUND:
            return []
        if code != 200:
            raise ServingError(f"{self.address.host} answered {code}: {content.get('error', content)}")
        return statuses_in(content)

    def classify(self, images) -> list[Answer]:
        """Classifies encoded images (JPEG, PNG, GIF, BMP or WebP as bytes) in one request.

        Raises:
            UnreadableImageError: one of them cannot be decoded.
            ServingError: anything else; says what.
        """
        instances = [{INPUT: {"b64": base64.b64encode(image).decode()}} for image in images]
        body = json.dumps({"signature_name": SIGNATURE, "instances": instances})
        code, content = self._request("POST", f"{self._models}{self._version}:predict", body)
        message = str(content.get("error", ""))
        if code == NOT_FOUND:
            raise ServingError(why_not_found(self.address, self.status()))
        if code == UNAVAILABLE:
            raise busy(self.address, self.retries + 1, message)
        if code == TIMED_OUT:
            raise timed_out(self.address, self.timeout)
        if code == BAD_REQUEST:
            raise rejected(self.address, message)
        if code != 200:
            raise ServingError(f"{self.address.host} answered {code}: {message or content}")
        return answers_in(content, len(instances))

    def close(self):
        """Closes all connections."""
        self._pool.clear()

    def _request(self, method, url, body=None):
        headers = {"Content-Type": "application/json"} if body else None
        try:
            response = self._pool.request(method, url, body=body, headers=headers)
        except urllib3.exceptions.MaxRetryError as error:
            raise self._explained(error.reason or error) from error
        except urllib3.exceptions.HTTPError as error:
            raise self._explained(error) from error
        return response.status, content_of(response.data, f"{self.address.host} answered {response.status}")

    def _explained(self, error):
        if isinstance(error, urllib3.exceptions.TimeoutError) and not isinstance(
            error, urllib3.exceptions.NewConnectionError
        ):
            return timed_out(self.address, self.timeout)
        if isinstance(error, urllib3.exceptions.NewConnectionError) and "refused" in str(error):
            return refused(self.address)
        return ServingError(f"Talking to {self.address.host} failed; is it the REST port, 8501 by default? {error}")


def content_of(data: bytes, who) -> dict[str, Any]:
    """The JSON object of an answer.

    Raises:
        ServingError: it is no JSON.
    """
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ServingError(
            f"{who} with something that is no JSON: is it the REST port of TensorFlow Serving? {data[:200]!r}"
        ) from error
    return content if isinstance(content, dict) else {"error": content}


def statuses_in(content) -> list[VersionStatus]:
    """The versions in the answer to a question for the status; ServingError where it is none."""
    try:
        return [
            VersionStatus(
                int(entry["version"]), str(entry["state"]), str(entry.get("status", {}).get("error_message", ""))
            )
            for entry in content["model_version_status"]
        ]
    except MALFORMED as error:
        raise unexpected(error) from error


def answers_in(content, count) -> list[Answer]:
    """What is said of `count` images in the answer to a prediction; ServingError where it is none."""
    try:
        rows = [tuple(row[name] for name in OUTPUTS) for row in content["predictions"]]
    except MALFORMED as error:
        raise unexpected(error) from error
    return checked_answers(rows, count)

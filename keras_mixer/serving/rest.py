"""TensorFlow Serving over REST. Source: TensorFlow Serving's "RESTful API"."""

import base64
import json
from typing import Any

import urllib3

from keras_mixer.serving import protocol

CODES = {400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}


class RestClient(protocol.Client):
    """A client for the REST port; `timeout` is for each attempt, `backoff` the seconds before the second retry."""

    def __init__(self, address, timeout=30.0, retries=protocol.RETRIES, backoff=0.2):
        super().__init__(address, timeout, retries + 1)
        retry = urllib3.Retry(
            retries,
            connect=False,
            read=False,
            other=0,
            status_forcelist=[503],
            allowed_methods=None,  # predictions change nothing, so POST may be repeated
            backoff_factor=backoff,
            backoff_jitter=backoff,
            raise_on_status=False,
        )
        self._pool = urllib3.PoolManager(maxsize=32, retries=retry, timeout=urllib3.Timeout(timeout))
        self.close = self._pool.clear
        self._url = f"{address.scheme}://{address.host}/v1/models/{address.model}"

    def _status(self):
        return protocol.statuses_in(self._request("GET", self._url))

    def _predict(self, images):
        instances = [{protocol.INPUT: {"b64": base64.b64encode(image).decode()}} for image in images]
        version = "" if self.address.version is None else f"/versions/{self.address.version}"
        request = {"signature_name": protocol.SIGNATURE, "instances": instances}
        return answers_in(self._request("POST", f"{self._url}{version}:predict", json=request), len(images))

    def _request(self, method, url, **body):
        try:
            response = self._pool.request(method, url, **body)
        except urllib3.exceptions.HTTPError as error:
            cause = getattr(error, "reason", None) or error
            late = isinstance(cause, urllib3.exceptions.TimeoutError)
            late = late and not isinstance(cause, urllib3.exceptions.NewConnectionError)  # in some versions both
            raise protocol.RequestFailed("DEADLINE_EXCEEDED" if late else "UNREACHABLE", str(cause)) from error
        content = content_of(response.data, f"{self.address.host} answered {response.status}")
        if response.status != 200:
            code = CODES.get(response.status, str(response.status))
            raise protocol.RequestFailed(code, str(content.get("error", content)))
        return content


def content_of(data: bytes, who) -> dict[str, Any]:
    """The JSON object of an answer; ServingError if it is not JSON."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise protocol.ServingError(
            f"{who} with something that is not JSON: is it the REST port of TensorFlow Serving? {data[:200]!r}"
        ) from error
    return content if isinstance(content, dict) else {"error": content}


def answers_in(content, count) -> list[protocol.Answer]:
    """The predictions for `count` images in the answer to a request; ServingError if it is malformed."""
    with protocol.parsing():
        rows = [tuple(row[name] for name in protocol.OUTPUTS) for row in content["predictions"]]
    return protocol.checked_answers(rows, count)

"""What the REST and the gRPC client share: addresses, answers, and the meaning of errors."""

import abc
import contextlib
import dataclasses
import operator
import re
from collections.abc import Callable

import numpy as np

SIGNATURE, INPUT = "image_bytes", "image_bytes"  # of `export_saved_model`
OUTPUTS = ("probabilities", "classes", "labels")
URL = re.compile(
    r"(?P<scheme>https?|grpc)://(?P<host>(?:[^:/]+|\[[^\]/]+\]):\d+)(?P<rest>/v1/models)?/(?P<model>[^/:]+)"
    r"(?:/versions/(?P<version>\d+))?/?"
)
RETRIES = 4  # while a server is unavailable; gRPC allows no more
DECODING_FAILED = "cannot be decoded"  # in the message of the exported signature


class ServingError(OSError):
    """A server could not be reached, is not ready, or does not have the requested model."""


class UnreadableImageError(ValueError):
    """An image of a request cannot be decoded."""


class RequestFailed(Exception):
    """A request failed; `args` are a gRPC status name (or "UNREACHABLE") and the message."""


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a model is served: its name at `HOST:PORT`, in one version or the newest (None)."""

    scheme: str  # "http", "https" or "grpc"
    host: str
    model: str
    version: int | None = None

    @classmethod
    def of(cls, url) -> "Address":
        """Reads an address as `connect` takes it; raises ValueError for any other."""
        match = URL.fullmatch(str(url))
        if not match or (match["scheme"] == "grpc") == bool(match["rest"]):
            raise ValueError(
                "Expected a server like http://HOST:8501/v1/models/NAME or grpc://HOST:8500/NAME, with /versions/N at "
                f"the end for one version, got {url!r}."
            )
        version = match["version"]
        return cls(match["scheme"], match["host"], match["model"], None if version is None else int(version))


@dataclasses.dataclass(frozen=True)
class Answer:
    """The server's answer for one image."""

    probabilities: np.ndarray  # (classes,) float32, in class order
    classes: tuple[int, ...]  # the best class numbers, best first; as many as the model was exported with
    labels: tuple[str, ...]  # their names


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """The server's report on one version of a model."""

    version: int
    state: str  # "START", "LOADING", "AVAILABLE", "UNLOADING" or "END"
    error: str = ""  # why it failed to load


class Client(abc.ABC):
    """One model of one server; safe to share between threads. Subclasses send the requests."""

    close: Callable[[], None]

    def __init__(self, address: Address, timeout, attempts):
        self.address, self.timeout, self.attempts = address, timeout, attempts

    def status(self) -> list[VersionStatus]:
        """All versions of the model, none if the server does not know it; ServingError if the request fails."""
        try:
            return self._status()
        except RequestFailed as failure:
            if failure.args[0] == "NOT_FOUND":
                return []
            raise self._error(*failure.args) from failure

    def classify(self, images) -> list[Answer]:
        """Classifies encoded images (JPEG or PNG as bytes) in one request.

        Raises:
            UnreadableImageError: an image cannot be decoded.
            ServingError: the request failed for another reason, which the message names.
        """
        try:
            return self._predict(images)
        except RequestFailed as failure:
            raise self._error(*failure.args) from failure

    @abc.abstractmethod
    def _status(self) -> list[VersionStatus]:
        """All versions of the model; RequestFailed if the server does not answer with them."""

    @abc.abstractmethod
    def _predict(self, images) -> list[Answer]:
        """The answers to encoded images; RequestFailed if the server does not answer with them."""

    def _error(self, code, message) -> Exception:
        if code == "NOT_FOUND":
            return ServingError(why_not_found(self.address, self.status()))
        if code in ("INVALID_ARGUMENT", "FAILED_PRECONDITION"):
            return rejected(self.address, message)
        if code in ("UNAVAILABLE", "UNREACHABLE") and "refused" in message:
            code = "REFUSED"
        host = self.address.host
        port = "gRPC port, 8500 by default" if self.address.scheme == "grpc" else "REST port, 8501 by default"
        texts = {
            "REFUSED": f"Nothing answers at {host}: connection refused. Is TensorFlow Serving running there ({port})?",
            "UNREACHABLE": f"The request to {host} failed; is this the {port}? {message}",
            "UNAVAILABLE": f"{host} stayed unavailable in {self.attempts} attempts: {message}",
            "DEADLINE_EXCEEDED": f"{host} did not answer within {self.timeout:g} s; raise --timeout or send fewer "
            "images.",
        }
        return ServingError(texts.get(code, f"{host} answered {code}: {message}"))


def why_not_found(address: Address, statuses: list[VersionStatus]) -> str:
    """Explains "servable not found" by the state of the model's versions on the server."""
    if not statuses:
        return f"The server at {address.host} has no model {address.model!r}; check the name it was started with."
    found = [status for status in statuses if address.version in (None, status.version)]
    if not found:
        available = ", ".join(str(status.version) for status in statuses if status.state == "AVAILABLE") or "none"
        return f"Model {address.model!r} at {address.host} has no version {address.version}; it has {available}."
    newest = max(found, key=lambda status: status.version)
    which = f"Version {newest.version} of model {address.model!r} at {address.host}"
    if newest.error:
        return f"{which} failed to load: {newest.error}"
    if newest.state in ("UNKNOWN", "START", "LOADING"):
        return f"{which} is still loading; try again soon."
    return f"{which} is not available ({newest.state})."


def rejected(address: Address, message) -> Exception:
    """The error for a request that the server calls invalid."""
    if DECODING_FAILED in message:
        return UnreadableImageError(message)
    if "signature" in message.lower():
        return ServingError(
            f"Model {address.model!r} at {address.host} has no signature {SIGNATURE!r}: it was not exported by this "
            f"package, or does not take RGB images. The server's message: {message}"
        )
    return ServingError(f"{address.host} rejected the request: {message}")


@contextlib.contextmanager
def parsing():
    """Turns every error of the block into a ServingError: the answer does not have the expected form."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise ServingError(
            f"The answer is not that of a model exported by this package, or of TensorFlow Serving ({error!r:.300})."
        ) from error


def statuses_in(content) -> list[VersionStatus]:
    """The versions in the answer to a status request; ServingError if it is malformed."""
    with parsing():
        return [
            VersionStatus(int(it["version"]), str(it["state"]), str(it.get("status", {}).get("error_message", "")))
            for it in content["model_version_status"]
        ]


def checked_answers(rows, count) -> list[Answer]:
    """Answers from `(probabilities, classes, labels)` of `count` images; ServingError if they are anything else."""
    with parsing(), np.errstate(over="ignore"):  # JSON has numbers that float32 cannot represent
        answers = [Answer(np.array(p, np.float32), tuple(map(operator.index, c)), tuple(names)) for p, c, names in rows]
        for answer in answers:
            (classes,) = answer.probabilities.shape
            named = [isinstance(label, str) for label in answer.labels] == [True] * len(answer.classes)
            if not named or not all(0 <= number < classes for number in answer.classes):
                raise ValueError(f"classes {answer.classes!r:.100}, labels {answer.labels!r:.100}")
        if len(answers) != count:
            raise ValueError(f"{len(answers)} answers for {count} images")
    return answers

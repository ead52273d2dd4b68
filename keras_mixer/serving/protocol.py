"""What both ways of talking to TensorFlow Serving share: where a model is, what a server says, and what errors mean."""

import dataclasses
import operator
import re

import numpy as np

SIGNATURE, INPUT = "image_bytes", "image_bytes"  # of `export_saved_model`
OUTPUTS = ("probabilities", "classes", "labels")
REST_PATH = re.compile(r"/v1/models/(?P<model>[^/:]+)(?:/versions/(?P<version>\d+))?/?")
GRPC_PATH = re.compile(r"/(?P<model>[^/:]+)(?:/versions/(?P<version>\d+))?/?")
LOADING = ("UNKNOWN", "START", "LOADING")
RETRIES = 4  # while a server is unavailable; gRPC allows no more
DECODING_FAILED = "cannot be decoded"  # in the message of the exported signature


# What taking a malformed answer apart raises.
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


class ServingError(OSError):
    """A server could not be reached, is not ready, or does not have what was asked for."""


class UnreadableImageError(ValueError):
    """An image of a request cannot be decoded."""


@dataclasses.dataclass(frozen=True)
class Address:
    """Where a model is served.

    Attributes:
        scheme: "http", "https" or "grpc".
        host: `HOST:PORT`.
        model: its name on the server.
        version: None for the newest.
    """

    scheme: str
    host: str
    model: str
    version: int | None = None

    @classmethod
    def of(cls, url) -> "Address":
        """Reads `http://HOST:8501/v1/models/NAME` or `grpc://HOST:8500/NAME`, each with `/versions/N` if wanted.

        Raises:
            ValueError: it is neither.
        """
        scheme, separator, rest = str(url).partition("://")
        host, _, path = rest.partition("/")
        pattern = {"http": REST_PATH, "https": REST_PATH, "grpc": GRPC_PATH}.get(scheme)
        match = pattern.fullmatch(f"/{path}") if pattern else None
        if not separator or not match or not re.fullmatch(r"[^:/]+:\d+|\[[^\]]+\]:\d+", host):
            raise ValueError(
                f"Server {url!r} is not understood; expected http://HOST:8501/v1/models/NAME or "
                "grpc://HOST:8500/NAME, with /versions/N at the end for one version."
            )
        version = match["version"]
        return cls(scheme, host, match["model"], None if version is None else int(version))


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a server says of one image.

    Attributes:
        probabilities: `(classes,) float32`, in class order.
        classes: the best class numbers, best first; as many as the model was exported with.
        labels: their names.
    """

    probabilities: np.ndarray
    classes: tuple[int, ...]
    labels: tuple[str, ...]


def checked_answers(rows, count) -> list[Answer]:
    """Answers from `(probabilities, classes, labels)` of each image, as a server gave them.

    Raises:
        ServingError: they are not `count` rows of that form.
    """
    try:
        with np.errstate(over="ignore"):  # JSON knows numbers that float32 does not
            answers = [
                Answer(np.array(probabilities, np.float32), tuple(map(operator.index, classes)), tuple(labels))
                for probabilities, classes, labels in rows
            ]
    except MALFORMED as error:
        raise unexpected(error) from error
    for answer in answers:
        numbered = all(0 <= best < len(answer.probabilities) for best in answer.classes if answer.probabilities.ndim)
        named = all(isinstance(label, str) for label in answer.labels) and len(answer.labels) == len(answer.classes)
        if answer.probabilities.ndim != 1 or not numbered or not named:
            raise unexpected(f"probabilities {answer.probabilities.shape}, classes {answer.classes!r:.200}")
    if len(answers) != count:
        raise unexpected(f"{len(answers)} answers for {count} images")
    return answers


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """What a server says of one version of a model.

    Attributes:
        version: its number.
        state: "START", "LOADING", "AVAILABLE", "UNLOADING" or "END".
        error: why it failed; empty where it did not.
    """

    version: int
    state: str
    error: str = ""


def why_not_found(address: Address, statuses: list[VersionStatus]) -> str:
    """A sentence for "servable not found", by what the server says of the versions of the model."""
    if not statuses:
        return f"The server at {address.host} has no model {address.model!r}; check the name that it was started with."
    asked = [status for status in statuses if address.version in (None, status.version)]
    available = [str(status.version) for status in statuses if status.state == "AVAILABLE"]
    if not asked:
        there = f"it has {', '.join(available)}" if available else "none is available"
        return f"Model {address.model!r} at {address.host} has no version {address.version}; {there}."
    newest = max(asked, key=lambda status: status.version)
    if newest.error:
        return f"Version {newest.version} of model {address.model!r} at {address.host} failed to load: {newest.error}"
    if newest.state in LOADING:
        return (
            f"Version {newest.version} of model {address.model!r} at {address.host} is still loading; try again soon."
        )
    return f"Version {newest.version} of model {address.model!r} at {address.host} is not available ({newest.state})."


def unexpected(what) -> ServingError:
    """The error for an answer that this package's exports do not give."""
    return ServingError(
        f"The answer is not that of a model exported by this package, or of TensorFlow Serving ({what!r:.300})."
    )


def refused(address: Address) -> ServingError:
    """The error for a port at which nobody listens."""
    port = {"grpc": "gRPC port, 8500"}.get(address.scheme, "REST port, 8501")
    return ServingError(
        f"Nothing answers at {address.host}: connection refused. Is TensorFlow Serving running there, and is this its "
        f"{port} by default?"
    )


def timed_out(address: Address, seconds) -> ServingError:
    """The error for a server that takes too long."""
    return ServingError(f"{address.host} did not answer within {seconds:g} s; raise --timeout or send fewer images.")


def busy(address: Address, attempts, message) -> ServingError:
    """The error for a server that stays overloaded."""
    return ServingError(f"{address.host} stayed unavailable in {attempts} attempts: {message}")


def rejected(address: Address, message) -> Exception:
    """The error for a request that the server calls invalid."""
    if DECODING_FAILED in message:
        return UnreadableImageError(message)
    if "signature" in message.lower():
        return ServingError(
            f"Model {address.model!r} at {address.host} has no signature {SIGNATURE!r}: it was not exported by this "
            f"package, or takes no RGB images. The server says: {message}"
        )
    return ServingError(f"{address.host} rejected the request: {message}")

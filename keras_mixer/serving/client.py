"""Classifies image files with a model that TensorFlow Serving serves."""

from pathlib import Path
from typing import Protocol

from keras_mixer.export.prediction import Prediction
from keras_mixer.serving.protocol import RETRIES, Address, Answer, UnreadableImageError, VersionStatus

IMAGES_PER_REQUEST = 32


class Client(Protocol):
    """What `RestClient` and `GrpcClient` both do."""

    def status(self) -> list[VersionStatus]:
        """All versions of the model."""

    def classify(self, images) -> list[Answer]:
        """Classifies encoded images in one request."""

    def close(self) -> None:
        """Closes the connections."""


def connect(url, timeout=30.0, retries=RETRIES) -> Client:
    """A client for one model of a server; nothing is sent yet.

    Args:
        url: `http://HOST:8501/v1/models/NAME` or `grpc://HOST:8500/NAME`, with `/versions/N` for one version.
        timeout: seconds until an answer must be there.
        retries: how often to ask again when the server is unavailable.

    Raises:
        ValueError: the URL is neither, or the extra that it needs is not installed.
    """
    address = Address.of(url)
    if timeout <= 0 or retries < 0:
        raise ValueError(f"timeout must be positive and retries not negative; they are {timeout} and {retries}.")
    if address.scheme == "grpc":
        from keras_mixer.serving.grpc_client import GrpcClient

        return GrpcClient(address, timeout, retries)
    from keras_mixer.serving.rest import RestClient

    return RestClient(address, timeout, retries)


def predict_files(client: Client, paths, top_k=5) -> list[Prediction]:
    """The `top_k` most probable classes of image files, in order.

    Raises:
        FileNotFoundError: a file is not there.
        ValueError: a file cannot be decoded (names it), or the model was exported for fewer classes an answer.
        ServingError: the server does not do its part.
    """
    paths = [Path(path) for path in paths]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"There is no image file {path}.")
    answers: list[Answer] = []
    for start in range(0, len(paths), IMAGES_PER_REQUEST):
        answers += _classify(client, paths[start : start + IMAGES_PER_REQUEST])
    return [_prediction(path, answer, top_k) for path, answer in zip(paths, answers, strict=True)]


def _classify(client, paths):
    """One request; when an image cannot be decoded, one for each image to learn which.

    The index in the server's message will not do: a server that batches counts through the images of several clients.
    """
    images = [path.read_bytes() for path in paths]
    try:
        return client.classify(images)
    except UnreadableImageError:
        return [_classify_one(client, path, image) for path, image in zip(paths, images, strict=True)]


def _classify_one(client, path, image):
    try:
        return client.classify([image])[0]
    except UnreadableImageError as error:
        raise ValueError(
            f"{path} cannot be decoded; the server wants whole JPEG, PNG, GIF, BMP or WebP images, none too large."
        ) from error


def _prediction(path, answer, top_k):
    given, classes = len(answer.labels), len(answer.probabilities)
    if given < min(top_k, classes):
        raise ValueError(
            f"The served model names its {given} best classes only; ask for --top-k {given}, or export it anew with "
            f"--top-k {top_k}."
        )
    best = answer.classes[:top_k]
    return Prediction(str(path), answer.labels[:top_k], tuple(float(answer.probabilities[i]) for i in best))

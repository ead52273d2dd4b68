"""Classifies image files with a model on TensorFlow Serving."""

from collections.abc import Iterator
from pathlib import Path

from keras_mixer.data.decode import for_server
from keras_mixer.data.image_files import read_image
from keras_mixer.export.predictor import Prediction
from keras_mixer.serving.protocol import RETRIES, Address, Answer, Client, UnreadableImageError

IMAGES_PER_REQUEST = 32


def connect(url, timeout=30.0, retries=RETRIES) -> Client:
    """A client for one model of a server; nothing is sent yet.

    Args:
        url: `http://HOST:8501/v1/models/NAME` or `grpc://HOST:8500/NAME`, followed by `/versions/N` for one version.
        timeout: seconds to wait for an answer.
        retries: how often to send a request again while the server is unavailable.

    Raises:
        ValueError: the URL has another form, or the extra it needs is not installed.
    """
    address = Address.of(url)
    if timeout <= 0 or retries < 0:
        raise ValueError(f"Expected timeout > 0 and retries >= 0, got {timeout} and {retries}.")
    if address.scheme == "grpc":
        from keras_mixer.serving.grpc_client import GrpcClient

        return GrpcClient(address, timeout, retries)
    from keras_mixer.serving.rest import RestClient

    return RestClient(address, timeout, retries)


def predict_files(client: Client, paths, top_k=5) -> list[Prediction | Exception]:
    """The `top_k` most probable classes of image files in order, or why a file cannot be read.

    Raises:
        ValueError: the model was exported with a smaller `top_k`.
        ServingError: the server failed.
    """
    paths = [Path(path) for path in paths]
    answers: list[Prediction | Exception] = []
    for start in range(0, len(paths), IMAGES_PER_REQUEST):
        files = [(path, _encoded(path)) for path in paths[start : start + IMAGES_PER_REQUEST]]
        readable = [encoded for _, encoded in files if isinstance(encoded, bytes)]
        found: Iterator[Answer | Exception]
        try:
            found = iter(client.classify(readable) if readable else [])
        except UnreadableImageError:
            # One request per image finds the unreadable one. The index in the server's message does not: a server that
            # batches counts images of other clients too.
            found = (_classify_one(client, path, encoded) for path, encoded in files if isinstance(encoded, bytes))
        for path, encoded in files:
            answer = next(found) if isinstance(encoded, bytes) else encoded
            answers.append(answer if isinstance(answer, Exception) else _prediction(path, answer, top_k))
    return answers


def _encoded(path) -> bytes | Exception:
    """An upright JPEG or PNG, or why the file cannot be read."""
    try:
        return read_image(path, for_server).numpy()
    except (ValueError, OSError) as error:
        return error


def _classify_one(client, path, encoded):
    try:
        return client.classify([encoded])[0]
    except UnreadableImageError:
        return ValueError(f"{path}: the server cannot decode it.")


def _prediction(path, answer, top_k):
    given = len(answer.labels)
    if given < min(top_k, len(answer.probabilities)):
        raise ValueError(
            f"The served model returns only its {given} best classes; use --top-k {given}, or export it again with "
            f"--top-k {top_k}."
        )
    probabilities = tuple(float(answer.probabilities[number]) for number in answer.classes[:top_k])
    return Prediction(str(path), answer.labels[:top_k], probabilities)

"""Classifies image files with a model on TensorFlow Serving."""

from pathlib import Path

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


def predict_files(client: Client, paths, top_k=5) -> list[Prediction]:
    """The `top_k` most probable classes of image files, in order.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file cannot be decoded (the message names it), or the model was exported with a smaller `top_k`.
        ServingError: the server failed.
    """
    paths = [Path(path) for path in paths]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"There is no image file {path}.")
    answers: list[Answer] = []
    for start in range(0, len(paths), IMAGES_PER_REQUEST):
        batch = paths[start : start + IMAGES_PER_REQUEST]
        try:
            answers += client.classify([path.read_bytes() for path in batch])
        except UnreadableImageError:
            # One request per image finds the unreadable one. The index in the server's message does not: a server that
            # batches counts images of other clients too.
            answers += [_classify_one(client, path) for path in batch]
    return [_prediction(path, answer, top_k) for path, answer in zip(paths, answers, strict=True)]


def _classify_one(client, path):
    try:
        return client.classify([path.read_bytes()])[0]
    except UnreadableImageError as error:
        raise ValueError(
            f"{path} cannot be decoded; the server takes complete JPEG, PNG, GIF, BMP or WebP images of at most 128 "
            "million pixels."
        ) from error


def _prediction(path, answer, top_k):
    given = len(answer.labels)
    if given < min(top_k, len(answer.probabilities)):
        raise ValueError(
            f"The served model returns only its {given} best classes; use --top-k {given}, or export it again with "
            f"--top-k {top_k}."
        )
    probabilities = tuple(float(answer.probabilities[number]) for number in answer.classes[:top_k])
    return Prediction(str(path), answer.labels[:top_k], probabilities)

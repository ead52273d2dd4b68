"""TensorFlow Serving over gRPC; needs the extra `serving`, and tensorflow-serving-api without its dependencies.

Source: prediction_service.proto and model_service.proto of TensorFlow Serving.
"""

import json
from typing import Any

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

MOST_ATTEMPTS = RETRIES + 1
LONGEST_BACKOFF = 10.0  # seconds


class GrpcClient:
    """One model of one server; safe to share between threads.

    Args:
        address: where it is.
        timeout: seconds until an answer must be there, repetitions included.
        retries: how often to ask again when the server is unavailable; gRPC allows 4, the default.
        backoff: seconds before the first repetition, doubled each time, and varied at random.

    Raises:
        ValueError: the extra is not installed.
    """

    def __init__(self, address: Address, timeout=30.0, retries=RETRIES, backoff=0.2):
        try:
            import grpc
            from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
        except ImportError as error:
            raise ValueError(
                "gRPC needs grpcio and tensorflow-serving-api: pip install 'keras-mixer[serving]' && pip install "
                "--no-deps tensorflow-serving-api (its dependencies would bring a second TensorFlow)."
            ) from error
        self.address, self.timeout = address, timeout
        self.attempts = min(retries + 1, MOST_ATTEMPTS)
        policy = {
            "maxAttempts": self.attempts,
            "initialBackoff": f"{backoff}s",
            "maxBackoff": f"{LONGEST_BACKOFF}s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        method: dict[str, Any] = {"name": [{}]} | ({"retryPolicy": policy} if self.attempts > 1 else {})
        unlimited = -1  # a batch of photographs exceeds gRPC's 4 MB
        self._grpc = grpc
        self._channel = grpc.insecure_channel(
            address.host,
            options=[
                ("grpc.max_send_message_length", unlimited),
                ("grpc.max_receive_message_length", unlimited),
                ("grpc.service_config", json.dumps({"methodConfig": [method]})),
            ],
        )
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(self._channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(self._channel)

    def status(self) -> list[VersionStatus]:
        """All versions of the model; empty when the server does not know it.

        Raises:
            ServingError: the server cannot be reached.
        """
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = self.address.model
        try:
            response = self._models.GetModelStatus(request, timeout=self.timeout)
        except self._grpc.RpcError as error:
            if error.code() is self._grpc.StatusCode.NOT_FOUND:
                return []
            raise self._explained(error) from error
        states = get_model_status_pb2.ModelVersionStatus.State
        return [
            VersionStatus(entry.version, states.Name(entry.state), entry.status.error_message)
            for entry in response.model_version_status
        ]

    def classify(self, images) -> list[Answer]:
        """Classifies encoded images (JPEG, PNG, GIF, BMP or WebP as bytes) in one request.

        Raises:
            UnreadableImageError: one of them cannot be decoded.
            ServingError: anything else; says what.
        """
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name = self.address.model
        request.model_spec.signature_name = SIGNATURE
        if self.address.version is not None:
            request.model_spec.version.value = self.address.version
        request.inputs[INPUT].CopyFrom(tf.make_tensor_proto(list(images), tf.string))
        request.output_filter.extend(OUTPUTS)
        try:
            response = self._predictions.Predict(request, timeout=self.timeout)
        except self._grpc.RpcError as error:
            if error.code() is self._grpc.StatusCode.NOT_FOUND:
                raise ServingError(why_not_found(self.address, self.status())) from error
            raise self._explained(error) from error
        try:
            probabilities, classes, labels = (tf.make_ndarray(response.outputs[name]) for name in OUTPUTS)
            names = [[name.decode() for name in row] for row in labels]
            rows = list(zip(probabilities, classes, names, strict=True))
        except MALFORMED as error:
            raise unexpected(error) from error
        return checked_answers(rows, len(images))

    def close(self):
        """Closes the connection."""
        self._channel.close()

    def _explained(self, error):
        code, details = error.code(), error.details() or ""
        codes = self._grpc.StatusCode
        if code is codes.DEADLINE_EXCEEDED:
            return timed_out(self.address, self.timeout)
        if code is codes.UNAVAILABLE and "refused" in details:
            return refused(self.address)
        if code is codes.UNAVAILABLE:
            return busy(self.address, self.attempts, details)
        if code in (codes.INVALID_ARGUMENT, codes.FAILED_PRECONDITION):
            return rejected(self.address, details)
        return ServingError(f"{self.address.host} answered {code.name}: {details}")

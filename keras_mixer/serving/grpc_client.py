"""TensorFlow Serving over gRPC; needs the extra `serving`, and tensorflow-serving-api without its dependencies.

Source: prediction_service.proto and model_service.proto of TensorFlow Serving.
"""

import json
from typing import Any

from keras_mixer.serving import protocol


class GrpcClient(protocol.Client):
    """A client for the gRPC port; `timeout` is for all attempts, `backoff` the seconds before the first retry."""

    def __init__(self, address, timeout=30.0, retries=protocol.RETRIES, backoff=0.2):
        try:
            import grpc
            from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc
        except ImportError as error:
            raise ValueError(
                "gRPC needs grpcio and tensorflow-serving-api: pip install 'keras-mixer[serving]' && pip install "
                "--no-deps tensorflow-serving-api (its dependencies would bring a second TensorFlow)."
            ) from error
        super().__init__(address, timeout, min(retries, protocol.RETRIES) + 1)
        method: dict[str, Any] = {"name": [{}]}  # all methods
        if self.attempts > 1:
            method["retryPolicy"] = {
                "maxAttempts": self.attempts,
                "initialBackoff": f"{backoff}s",
                "maxBackoff": "10s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            }
        unlimited = -1  # a batch of photographs exceeds gRPC's 4 MB
        options: dict[str, Any] = {"grpc.service_config": json.dumps({"methodConfig": [method]})}
        options |= {"grpc.max_send_message_length": unlimited, "grpc.max_receive_message_length": unlimited}
        channel = grpc.insecure_channel(address.host, options=list(options.items()))
        self.close = channel.close
        self._predictions = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        self._models = model_service_pb2_grpc.ModelServiceStub(channel)

    def _status(self):
        from google.protobuf.json_format import MessageToDict
        from tensorflow_serving.apis import get_model_status_pb2

        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = self.address.model
        response = self._call(self._models.GetModelStatus, request)
        return protocol.statuses_in(MessageToDict(response, preserving_proto_field_name=True))

    def _predict(self, images):
        import tensorflow as tf
        from tensorflow_serving.apis import predict_pb2

        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = self.address.model, protocol.SIGNATURE
        if self.address.version is not None:
            request.model_spec.version.value = self.address.version
        request.inputs[protocol.INPUT].CopyFrom(tf.make_tensor_proto(list(images), tf.string))
        request.output_filter.extend(protocol.OUTPUTS)
        outputs = self._call(self._predictions.Predict, request).outputs
        with protocol.parsing():
            probabilities, classes, labels = (tf.make_ndarray(outputs[name]) for name in protocol.OUTPUTS)
            names = [[name.decode() for name in row] for row in labels]
            rows = list(zip(probabilities, classes, names, strict=True))
        return protocol.checked_answers(rows, len(images))

    def _call(self, method, request):
        import grpc

        try:
            return method(request, timeout=self.timeout)
        except grpc.RpcError as error:
            raise protocol.RequestFailed(error.code().name, error.details() or "") from error

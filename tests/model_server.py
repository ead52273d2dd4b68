"""A stand-in for TensorFlow Serving that answers from an exported SavedModel: predictions and the state of its version
over REST as its documentation describes them, predictions over gRPC by its own stubs.

Source: TensorFlow Serving's api_rest.md, http_rest_api_handler.cc, http_rest_api_util.cc, get_model_status_impl.cc.
"""

import base64
import contextlib
import functools
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import tensorflow as tf

PATH = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?(:predict)?", re.I)
HTTP_STATUS = {"NOT_FOUND": 404, "INVALID_ARGUMENT": 400}


class Failure(Exception):
    """An error with one of gRPC's codes."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


class ModelServer:
    """Serves the newest `base_path/VERSION/` there is when it is first asked.

    Attributes:
        delay: seconds before a prediction is answered.
        answered: number of predictions so far.
    """

    def __init__(self, name, base_path):
        self.name, self.base_path = name, Path(base_path)
        self.delay, self.answered, self._lock = 0.0, 0, threading.Lock()
        self._rest = Rest(("127.0.0.1", 0), self)
        self._thread = threading.Thread(target=self._rest.serve_forever, args=(0.05,))
        self.rest_port, self.grpc_port, self._grpc = self._rest.server_port, None, None

    def __enter__(self):
        with contextlib.suppress(ImportError):
            self._grpc, self.grpc_port = serve_grpc(self)
        self._thread.start()
        return self

    def __exit__(self, *exception):
        if self._grpc:
            self._grpc.stop(None).wait()
        self._rest.shutdown()
        self._rest.server_close()
        self._thread.join()

    @functools.cached_property
    def version(self):
        versions = [int(path.name) for path in self.base_path.iterdir() if path.name.isdigit()]
        if not versions:
            raise Failure("NOT_FOUND", f"Servable not found for request: Latest({self.name})")
        return max(versions)

    @functools.cached_property
    def model(self):
        return tf.saved_model.load(str(self.base_path / str(self.version)))

    def signature(self, name, version, signature_name):
        if name != self.name or version not in (None, self.version):
            asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise Failure("NOT_FOUND", f"Servable not found for request: {asked}")
        if signature_name not in self.model.signatures:
            raise Failure("INVALID_ARGUMENT", f'Serving signature name: "{signature_name}" not found in signature def')
        return self.model.signatures[signature_name]

    def predict(self, signature, inputs):
        time.sleep(self.delay)
        try:
            outputs = signature(**inputs)
        except tf.errors.InvalidArgumentError as error:
            raise Failure("INVALID_ARGUMENT", error.message) from error
        with self._lock:
            self.answered += 1
        return {name: tensor.numpy() for name, tensor in outputs.items()}


class Rest(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address, models):
        super().__init__(address, RestHandler)
        self.models = models


class RestHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self._answer(self._status)

    def do_POST(self):
        self._answer(self._predict)

    def _answer(self, act):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            match = PATH.fullmatch(self.path)
            if not match or bool(match[3]) != (self.command == "POST"):
                raise Failure("INVALID_ARGUMENT", f"Malformed request: {self.command} {self.path}")
            code, content = 200, act(match[1], match[2] and int(match[2]), body)
        except Failure as failure:
            code, content = HTTP_STATUS[failure.code], {"error": str(failure)}
        encoded = json.dumps(content, indent=1).encode()
        with contextlib.suppress(ConnectionError):  # the client gave up
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

    def _status(self, name, version, body):
        models = self.server.models
        if name != models.name or version not in (None, models.version):
            raise Failure("NOT_FOUND", f"Could not find any versions of model {name}")
        status = {"error_code": "OK", "error_message": ""}
        return {"model_version_status": [{"version": str(models.version), "state": "AVAILABLE", "status": status}]}

    def _predict(self, name, version, body):
        """Answers the row format: an instance is an image or a dictionary; multiple outputs are dictionaries."""
        models, request = self.server.models, json.loads(body)
        signature = models.signature(name, version, request.get("signature_name", "serving_default"))
        ((key, spec),) = signature.structured_input_signature[1].items()
        images = [row[key] if isinstance(row, dict) and key in row else row for row in request["instances"]]
        outputs = models.predict(signature, {key: tf.constant(decoded(images), spec.dtype)})
        columns = {name: as_json(array) for name, array in outputs.items()}
        if len(columns) == 1:
            return {"predictions": next(iter(columns.values()))}
        return {"predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


def decoded(value):
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return [decoded(item) for item in value] if isinstance(value, list) else value


def as_json(array):
    """Strings as text; floats as short as float32 allows."""
    kinds = {"O": bytes.decode, "f": lambda x: float(str(x))}
    return np.vectorize(kinds.get(array.dtype.kind, int), otypes=[object])(array).tolist()


def serve_grpc(models):
    """Starts a gRPC server; returns it and its port.

    Raises:
        ImportError: tensorflow-serving-api is not installed.
    """
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            spec, response = request.model_spec, predict_pb2.PredictResponse()
            try:
                signature = models.signature(spec.name, None, spec.signature_name)
                inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
                for name, values in models.predict(signature, inputs).items():
                    response.outputs[name].CopyFrom(tf.make_tensor_proto(values))
            except Failure as failure:
                context.abort(getattr(grpc.StatusCode, failure.code), str(failure))
            return response

    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(32), options=unlimited)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Predictions(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port

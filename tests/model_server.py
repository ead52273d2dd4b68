"""A stand-in for TensorFlow Serving that answers from exported SavedModels: REST as its documentation describes it,
gRPC by its own stubs. It finds new versions by itself, loads them before it gives up the old one, and fails on demand.

Source: TensorFlow Serving's api_rest.md, http_rest_api_handler.cc, http_rest_api_util.cc, get_model_status_impl.cc.
"""

import base64
import contextlib
import dataclasses
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import tensorflow as tf

PREDICT = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?:predict", re.I)
STATUS = re.compile(r"/v1/models/([^/:]+)(?:/versions/(\d+))?", re.I)
HTTP_STATUS = {"NOT_FOUND": 404, "INVALID_ARGUMENT": 400, "UNAVAILABLE": 503, "DEADLINE_EXCEEDED": 504}
POLL_SECONDS = 0.05


class Failure(Exception):
    """An error with one of gRPC's codes."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


@dataclasses.dataclass
class Version:
    state: str = "LOADING"
    error: str = ""
    model: object = None


class ModelServer:
    """Serves `base_path/VERSION/`, always the newest version that loads.

    Attributes:
        busy: so many of the next predictions are refused as if the queue were full.
        delay: seconds before a prediction is answered.
        hold: while set, new versions stay in state LOADING.
    """

    def __init__(self, name, base_path):
        self.name, self.base_path = name, Path(base_path)
        self.versions = {}
        self.busy, self.delay, self.hold = 0, 0.0, False
        self.answered = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch)
        self._rest = Rest(("127.0.0.1", 0), self)
        self._threads = [self._watcher, threading.Thread(target=self._rest.serve_forever, args=(0.05,))]
        self.rest_port = self._rest.server_port
        self.grpc_port = None
        self._grpc = None

    def __enter__(self):
        with contextlib.suppress(ImportError):
            self._grpc, self.grpc_port = serve_grpc(self)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception):
        self._stopping.set()
        if self._grpc:
            self._grpc.stop(None).wait()
        self._rest.shutdown()
        self._rest.server_close()
        for thread in self._threads:
            thread.join()

    def _watch(self):
        while not self._stopping.wait(POLL_SECONDS):
            found = [int(path.name) for path in self.base_path.iterdir() if path.name.isdigit()]
            if not found:
                continue
            newest = max(found)
            version = self.versions.setdefault(newest, Version())
            if version.state != "LOADING" or self.hold:
                continue
            try:
                version.model = tf.saved_model.load(str(self.base_path / str(newest)))
            except Exception as error:
                version.state, version.error = "END", str(error)
                continue
            version.state = "AVAILABLE"
            for number, old in self.versions.items():
                if number < newest and old.state == "AVAILABLE":
                    old.state = "END"  # who is using it holds a reference

    def wait_until_available(self, version):
        deadline = time.monotonic() + 60
        while self.versions.get(version, Version()).state != "AVAILABLE":
            assert time.monotonic() < deadline, self.versions
            time.sleep(0.01)

    def status(self, name, version=None):
        if name != self.name or not self.versions:
            raise Failure("NOT_FOUND", f"Could not find any versions of model {name}")
        if version is not None and version not in self.versions:
            raise Failure("NOT_FOUND", f"Could not find version {version} of model {name}")
        return {number: self.versions[number] for number in self.versions if version in (None, number)}

    def signature(self, name, version, signature_name):
        usable = [number for number, one in list(self.versions.items()) if one.state == "AVAILABLE"]
        wanted = max(usable, default=None) if version is None else version
        if name != self.name or wanted not in usable:
            asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
            raise Failure("NOT_FOUND", f"Servable not found for request: {asked}")
        signatures = self.versions[wanted].model.signatures
        if signature_name not in signatures:
            raise Failure("INVALID_ARGUMENT", f'Serving signature name: "{signature_name}" not found in signature def')
        return signatures[signature_name], wanted

    def predict(self, signature, inputs):
        with self._lock:
            if self.busy:
                self.busy -= 1
                raise Failure("UNAVAILABLE", "The batch scheduling queue to which this task was submitted is full")
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
            code, content = 200, act(body)
        except Failure as failure:
            code, content = HTTP_STATUS[failure.code], {"error": str(failure)}
        encoded = json.dumps(content, indent=1).encode()
        with contextlib.suppress(ConnectionError):  # the client gave up
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

    def _status(self, body):
        match = STATUS.fullmatch(self.path)
        if not match:
            raise Failure("INVALID_ARGUMENT", f"Malformed request: GET {self.path}")
        versions = self.server.models.status(match[1], match[2] and int(match[2]))
        return {
            "model_version_status": [
                {
                    "version": str(number),
                    "state": version.state,
                    "status": {"error_code": "UNKNOWN" if version.error else "OK", "error_message": version.error},
                }
                for number, version in versions.items()
            ]
        }

    def _predict(self, body):
        match = PREDICT.fullmatch(self.path)
        if not match:
            raise Failure("INVALID_ARGUMENT", f"Malformed request: POST {self.path}")
        try:
            request = json.loads(body)
        except ValueError as error:
            raise Failure("INVALID_ARGUMENT", "JSON Parse error") from error
        if ("instances" in request) == ("inputs" in request):
            raise Failure("INVALID_ARGUMENT", "Request must have one of 'instances' and 'inputs'")
        models = self.server.models
        name = request.get("signature_name", "serving_default")
        signature, _ = models.signature(match[1], match[2] and int(match[2]), name)
        specs = signature.structured_input_signature[1]
        if "instances" in request:
            rows = request["instances"]
            named = [row if isinstance(row, dict) and "b64" not in row else {next(iter(specs)): row} for row in rows]
            columns = {key: [row[key] for row in named] for key in named[0]}
        else:
            given = request["inputs"]
            columns = given if isinstance(given, dict) and "b64" not in given else {next(iter(specs)): given}
        if set(columns) != set(specs):
            raise Failure("INVALID_ARGUMENT", f"inputs {set(columns)} do not fit {set(specs)}")
        inputs = {key: tf.constant(decoded(values), specs[key].dtype) for key, values in columns.items()}
        outputs = {key: encoded(key, values) for key, values in models.predict(signature, inputs).items()}
        if "inputs" in request:
            return {"outputs": outputs if len(outputs) > 1 else next(iter(outputs.values()))}
        if len(outputs) == 1:
            return {"predictions": next(iter(outputs.values()))}
        return {"predictions": [dict(zip(outputs, row, strict=True)) for row in zip(*outputs.values(), strict=True)]}


def decoded(value):
    if isinstance(value, dict):
        return base64.b64decode(value["b64"])
    return [decoded(item) for item in value] if isinstance(value, list) else value


def encoded(name, array):
    """As JSON: base64 for names that end in _bytes, other strings as text; floats as short as float32 allows."""
    if array.dtype == object:
        if name.endswith("_bytes"):
            return np.vectorize(lambda text: {"b64": base64.b64encode(text).decode()}, otypes=[object])(array).tolist()
        return np.vectorize(bytes.decode, otypes=[object])(array).tolist()
    return (
        np.vectorize(lambda x: float(str(x)), otypes=[object])(array).tolist()
        if array.dtype.kind == "f"
        else array.tolist()
    )


def serve_grpc(models):
    """Starts a gRPC server; returns it and its port.

    Raises:
        ImportError: tensorflow-serving-api is not installed.
    """
    import grpc
    from tensorflow_serving.apis import (
        get_model_status_pb2,
        model_service_pb2_grpc,
        predict_pb2,
        prediction_service_pb2_grpc,
    )

    def answering(act):
        def answer(self, request, context):
            try:
                return act(request)
            except Failure as failure:
                context.abort(getattr(grpc.StatusCode, failure.code), str(failure))

        return answer

    def predict(request):
        spec = request.model_spec
        version = spec.version.value if spec.HasField("version") else None
        signature, used = models.signature(spec.name, version, spec.signature_name or "serving_default")
        inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        for name, values in models.predict(signature, inputs).items():
            if not request.output_filter or name in request.output_filter:
                response.outputs[name].CopyFrom(tf.make_tensor_proto(values))
        response.model_spec.name, response.model_spec.version.value = spec.name, used
        return response

    def status(request):
        spec = request.model_spec
        response = get_model_status_pb2.GetModelStatusResponse()
        for number, version in models.status(
            spec.name, spec.version.value if spec.HasField("version") else None
        ).items():
            entry = response.model_version_status.add(version=number)
            entry.state = get_model_status_pb2.ModelVersionStatus.State.Value(version.state)
            entry.status.error_code, entry.status.error_message = (2 if version.error else 0), version.error
        return response

    predictions = type("P", (prediction_service_pb2_grpc.PredictionServiceServicer,), {"Predict": answering(predict)})
    statuses = type("M", (model_service_pb2_grpc.ModelServiceServicer,), {"GetModelStatus": answering(status)})
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(ThreadPoolExecutor(32), options=unlimited)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(predictions(), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(statuses(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port

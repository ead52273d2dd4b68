"""A stand-in for TensorFlow Serving: images as bytes, answered by an exported SavedModel over REST and gRPC.

Source: TensorFlow Serving's api_rest.md; gRPC by its own stubs.
"""

import base64
import contextlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import tensorflow as tf


class ModelServer(ThreadingHTTPServer):
    """Serves the newest `base_path/VERSION/` there is when it is first asked; `answered` counts its predictions."""

    daemon_threads, request_queue_size = True, 128

    def __init__(self, name, base_path):
        super().__init__(("127.0.0.1", 0), Handler)
        self.base_path, self.answered, self.lock = base_path, 0, threading.Lock()
        self.rest_port, self.url = self.server_port, f"http://127.0.0.1:{self.server_port}/v1/models/{name}"
        self.signatures, self.grpc = None, None

    def __enter__(self):
        with contextlib.suppress(ImportError):  # without tensorflow-serving-api
            self.grpc, self.grpc_port = serve_grpc(self)
        threading.Thread(target=self.serve_forever, args=(0.05,)).start()
        return self

    def __exit__(self, *exception):
        if self.grpc:
            self.grpc.stop(None).wait()
        self.shutdown()
        self.server_close()

    def predict(self, signature, images):
        with self.lock:
            if self.signatures is None:
                newest = max(self.base_path.iterdir(), key=lambda path: int(path.name) if path.name.isdigit() else -1)
                self.signatures = tf.saved_model.load(str(newest)).signatures
        outputs = self.signatures[signature](image_bytes=tf.constant(images))
        with self.lock:
            self.answered += 1
        return {name: tensor.numpy() for name, tensor in outputs.items()}


class Handler(BaseHTTPRequestHandler):
    protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        self.answer(200, {"model_version_status": [{"version": "1", "state": "AVAILABLE"}]})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        images = [row.get("image_bytes", row)["b64"] for row in request["instances"]]
        try:
            outputs = self.server.predict(request["signature_name"], list(map(base64.b64decode, images)))
        except tf.errors.InvalidArgumentError as error:
            return self.answer(400, {"error": error.message})
        columns = [(np.char.decode(a.astype("S")) if a.dtype == object else a).tolist() for a in outputs.values()]
        self.answer(200, {"predictions": [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]})

    def answer(self, status, content):
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)


def serve_grpc(models):
    """Starts a gRPC server; returns it and its port. ImportError if tensorflow-serving-api is not installed."""
    import grpc
    from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

    class Predictions(prediction_service_pb2_grpc.PredictionServiceServicer):
        def Predict(self, request, context):
            response = predict_pb2.PredictResponse()
            images = tf.make_ndarray(request.inputs["image_bytes"])
            for name, values in models.predict(request.model_spec.signature_name, images).items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(values))
            return response

    server = grpc.server(ThreadPoolExecutor(4))
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(Predictions(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port

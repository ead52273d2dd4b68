import functools
import hashlib
import io
import json
import queue
import re
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from conftest import randomize

import keras_mixer
from keras_mixer.export import web


@pytest.fixture(scope="session")
def classifier():
    mixer = keras_mixer.Mixer(4, 2, 32, 16, 64, input_shape=(16, 24, 3), classes=10)
    model = randomize(mixer, np.random.default_rng(0))
    model.class_names, model.evaluation_crop = tuple(f"class {i}" for i in range(10)), "resmall-crop"
    return model


@pytest.fixture(scope="session")
def tflite_file(classifier, tmp_path_factory):
    """One file of the classifier for all tests that only read it."""
    return keras_mixer.export_tflite(classifier, tmp_path_factory.mktemp("files") / "digits.tflite")


@pytest.fixture
def pixels(rng):
    return rng.integers(0, 256, (5, 16, 24, 3)).astype(np.float32)


@pytest.fixture
def serve(tmp_path):
    """Starts a static server on a folder; returns its address and a queue of what is posted to it.

    `policies` are sent with the files of a sub-folder; files of "plain" have no MIME type for JavaScript.
    """
    started = []

    def start(folder, policies=()):
        posted = queue.Queue()

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *arguments):
                pass

            def guess_type(self, path):
                return "text/plain" if re.match("/plain/.*js$", self.path) else super().guess_type(path)

            def end_headers(self):
                if (part := self.path.split("/")[1]) in policies:
                    self.send_header("Content-Security-Policy", policies[part])
                super().end_headers()

            def do_POST(self):
                posted.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

        server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        started.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}", posted

    yield start
    for server, thread in started:
        server.shutdown()
        server.server_close()
        thread.join()


def archive(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def registry(serve, tmp_path, monkeypatch):
    """A registry of its own with stand-ins for LiteRT.js; returns the folder of its archives."""
    runtime = [f"wasm/{name}{suffix}" for name in web.RUNTIMES for suffix in (".js", ".wasm")]
    core = b'import { load } from "@litertjs/wasm-utils";'
    contents = {
        "@litertjs/core": archive({"dist/index.js": core, **{name: name.encode() for name in runtime}}),
        "@litertjs/wasm-utils": archive({"dist/index.js": b"utils"}),
    }
    for package, content in contents.items():
        monkeypatch.setitem(web.PACKAGES, package, hashlib.sha256(content).hexdigest())
        file = tmp_path / "registry" / package / "-" / f"{package.split('/')[1]}-{web.VERSION}.tgz"
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
    monkeypatch.setenv("NPM_CONFIG_REGISTRY", serve(tmp_path / "registry")[0] + "/")
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
    return tmp_path / "registry"

"""The client of TensorFlow Serving, against a stand-in that speaks its protocols."""

import json
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import keras
import numpy as np
import pytest
from conftest import randomize
from image_files import encode, evaluated, photographs, turned
from model_server import ModelServer
from pages import ROOT, blocks

import keras_mixer
from keras_mixer import cli, serving
from keras_mixer.serving import Answer, Client, Rejected, ServingError, answers_in, content_of

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="serves files of TensorFlow")

CLIENTS, REQUESTS = 32, 320
ROW = {"probabilities": [0.25, 0.75], "classes": [1, 0], "labels": ["b", "a"]}


@pytest.fixture(scope="module")
def model():
    model = randomize(keras_mixer.Mixer(4, 1, 16, 8, 16, input_shape=(8, 8, 3), classes=10), np.random.default_rng(0))
    model.class_names, model.evaluation_crop = tuple("abcdefghij"), "resize"
    return model


@pytest.fixture(scope="module")
def base_path(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "mixer"
    keras_mixer.export_saved_model(model, folder, version=4)
    return folder


@pytest.fixture(scope="module")
def stand_in(base_path):
    with ModelServer("mixer", base_path) as server:
        yield server


@pytest.fixture(scope="module")
def url(stand_in):
    return f"http://127.0.0.1:{stand_in.rest_port}/v1/models/mixer"


@pytest.fixture(scope="module")
def images():
    photograph = photographs()[1]
    return [turned(photograph), encode(photograph[:50, :40], "PNG", "RGBA"), encode(photograph, "PNG", "L")]


@pytest.fixture
def files(images, tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(len(images))]
    for path, content in zip(paths, images, strict=True):
        path.write_bytes(content)
    return paths


def expected(model, images):
    pixels = np.stack([evaluated(image, (8, 8), "resize") for image in images]).astype(np.float32)
    return np.asarray(model(pixels))


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.mark.parametrize("version", ["", "/versions/4"])
def test_answers_are_the_models(url, model, images, version):
    answers = Client(url + version).classify(images)
    for answer, row in zip(answers, expected(model, images), strict=True):
        np.testing.assert_allclose(answer.probabilities, row, atol=1e-5)
        assert answer.classes == list(np.argsort(-row)[:5])
        assert answer.labels == ["abcdefghij"[i] for i in answer.classes]


def test_what_the_graph_does_not_read_is_prepared_here(url, model, tmp_path):
    photograph = photographs()[0]
    contents = {"turned.jpg": turned(photograph), "a.webp": encode(photograph, "WEBP", lossless=True)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    upright = encode(np.rot90(evaluated(turned(photograph), photograph.shape[:2], "resize").numpy(), -1), "PNG")
    rows = expected(model, [upright, encode(photograph, "PNG")])
    for answer, row in zip(Client(url).predict([tmp_path / name for name in contents]), rows, strict=True):
        np.testing.assert_allclose(answer.probabilities, np.sort(row)[:-6:-1], atol=1e-5)


def test_what_is_not_there_is_named(url, images):
    for address, name in ((url[:-1] + "s", "mixes"), (url + "/versions/7", "mixer")):
        with pytest.raises(ServingError, match=f"answered 404 Not Found: .*{name}"):
            Client(address).classify(images)


def test_an_unreadable_file_is_named(url, images, tmp_path):
    client = Client(url)
    with pytest.raises(Rejected, match=r"cannot be decoded.*indices in the batch:\] \[1\]"):
        client.classify([images[0], b"no image"])
    paths = [tmp_path / name for name in ("a.jpg", "b.jpg", "c.png")]
    for path, content in zip(paths, [images[0], images[1][:200], images[1]], strict=True):
        path.write_bytes(content)
    (tmp_path / "e.png").write_bytes(b"")
    found = list(client.predict([*paths, tmp_path / "d.jpg", tmp_path / "e.png"]))
    assert [str(answer) for answer in found if isinstance(answer, Exception)] == [
        f"{paths[1]}: the server cannot decode it.",
        f"There is no image file {tmp_path / 'd.jpg'}.",
        f"{tmp_path / 'e.png'}: empty",
    ]
    assert [answer.image for answer in found if not isinstance(answer, Exception)] == [*map(str, paths[::2])]
    assert [prediction.image for prediction in client.predict([paths[2], paths[0]])] == [*map(str, paths[::-2])]
    with pytest.raises(ValueError, match="returns only its 5 best classes; use --top-k 5"):
        list(client.predict(paths[:1], top_k=6))


@pytest.fixture
def gateway():
    """A proxy in front of a server: answers from a list of `(status, content)`, and keeps what it was asked."""
    answers, asked = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or '{"instances": []}')
            asked.append((self.path, dict(self.headers), len(body["instances"])))
            status, content = answers.pop(0) if len(answers) > 1 else answers[0]
            content = json.dumps(content(body)).encode() if callable(content) else content
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{proxy.server_port}", answers, asked
        proxy.shutdown()
        thread.join()


def good(body):
    return {"predictions": [ROW] * len(body["instances"])}


def test_a_path_a_label_and_a_token_reach_the_server(gateway, files, capsys):
    url, answers, asked = gateway
    answers.append((200, good))
    address = f"{url}/team/v1/models/mixer/labels/stable"
    options = ["--server", address, "--header", "Authorization: Bearer abc", "--images-per-request", "2", "--json"]
    assert cli.main(["predict", *map(str, files), *options]) == 0
    assert [(path, count) for path, _, count in asked] == [
        ("/team/v1/models/mixer/labels/stable:predict", count) for count in (2, 1)
    ]
    assert asked[0][1]["Authorization"] == "Bearer abc"
    assert [row["labels"] for row in json.loads(capsys.readouterr().out)] == [["b", "a"]] * 3


def test_a_server_that_takes_fewer_images_gets_fewer(gateway, files):
    url, answers, asked = gateway
    error = b'{"error": "Task size 3 is larger than maximum input batch size 1"}'
    answers += [(400, error), (200, good)]
    client = Client(f"{url}/v1/models/mixer")
    assert len(list(client.predict(files))) == 3
    assert [count for *_, count in asked] == [3, 1, 2]
    assert client.images_per_request == 1
    answers[:] = [(413, b"<html>"), (200, good)]
    asked.clear()
    assert len(list(Client(f"{url}/v1/models/mixer").predict(files))) == 3
    assert [count for *_, count in asked] == [3, 1, 2]


@pytest.mark.parametrize(
    ("status", "attempts", "message"),
    [
        (429, 3, "to 3 attempts: it limits the number of requests"),
        (502, 3, "to 3 attempts: a proxy got no answer from TensorFlow Serving"),
        (503, 3, "to 3 attempts: it is busy or starting"),
        (504, 3, "to 3 attempts: a proxy did not wait long enough"),
        (413, 1, "takes no request of this size: raise the limit of the proxy"),
        (401, 1, 'pass --header "Authorization: Bearer TOKEN"'),
        (403, 1, "is the token in --header right"),
    ],
)
def test_what_proxies_answer_is_named_and_what_may_pass_is_retried(
    gateway, files, status, attempts, message, monkeypatch
):
    url, answers, asked = gateway
    answers.append((status, b"<html>"))
    monkeypatch.setattr(serving, "BACKOFF", 0.001)
    client = Client(f"{url}/v1/models/mixer", retries=2)
    with pytest.raises(ServingError, match=message) as caught:
        list(client.predict(files[:1]))
    assert f"answered {status}" in str(caught.value)
    assert len(asked) == attempts
    if attempts > 1:
        answers[:] = [(status, b"<html>"), (200, good)]
        assert len(list(client.predict(files))) == 3


def test_a_slow_server_is_not_waited_for(stand_in, url, images, monkeypatch):
    monkeypatch.setattr(stand_in, "delay", 0.6)
    with pytest.raises(ServingError, match=r"gave no answer: .*Read timed out.* raise --timeout"):
        Client(url, timeout=0.2).classify(images)
    time.sleep(0.6)


def test_a_port_nobody_listens_at_is_named(images):
    client = Client(f"http://127.0.0.1:{free_port()}/v1/models/mixer", retries=1)
    with pytest.raises(ServingError, match=r"gave no answer: .*Connection refused\. Is TensorFlow Serving running"):
        client.classify(images)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://a.b:8501/v1/models/m/versions/12", "a.b:8501"),
        ("https://a.b/v1/models/m/", "a.b"),
        ("https://a.b/some/prefix/v1/models/m/labels/canary", "a.b"),
        ("http://[::1]:8501/v1/models/m", "[::1]:8501"),
    ],
)
def test_addresses(url, host):
    client = Client(url)
    assert (client.host, client.model) == (host, "m")
    assert client.url == url.rstrip("/")


@pytest.mark.parametrize("url", ["", "localhost:8501", "http://localhost:8501/", "grpc://localhost:1/x", "ftp://a:1/b"])
def test_a_url_that_is_no_server_is_refused(url):
    with pytest.raises(ValueError, match="Expected a server like http://HOST:8501/v1/models/NAME"):
        Client(url)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"predictions": None},
        {"predictions": [ROW, ROW]},
        {"predictions": [[0.25, 0.75]]},
        {"predictions": [{"probabilities": [1.0]}]},
        *({"predictions": [ROW | change]} for change in (
            {"probabilities": ["a", "b"]},
            {"probabilities": 1.0},
            {"probabilities": [[0.25], []]},
            {"classes": [2, 0]},
            {"classes": [-1, 0]},
            {"classes": [1.5, 0]},
            {"classes": [1]},
            {"labels": None},
        )),
    ],
    ids=repr,
)  # fmt: skip
def test_a_malformed_answer_is_a_serving_error(content):
    assert answers_in({"predictions": [ROW]}, 1) == [Answer([0.25, 0.75], [1, 0], ["b", "a"])]
    with pytest.raises(ServingError, match="not that of a model exported by this package"):
        answers_in(content, 1)


@pytest.mark.parametrize("data", [b"", b"<html>", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_a_serving_error(data):
    with pytest.raises(ServingError, match="that is not JSON: is it the REST port"):
        content_of(data, "it answered 200")
    assert content_of(b"[1]", "it") == {"error": [1]}


def test_no_answer_is_lost_or_wrong_when_threads_share_a_client(stand_in, url, model, images):
    probabilities, before, client = expected(model, images), stand_in.answered, Client(url)

    def ask(number):
        which = number % len(images)
        found = client.classify([images[which]])[0].probabilities
        np.testing.assert_allclose(found, probabilities[which], atol=1e-5)

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(ask, range(REQUESTS)))
    assert stand_in.answered - before == REQUESTS
    client.close()


def test_the_grpc_example_of_the_guide(stand_in, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api")
    page = blocks(ROOT / "docs" / "guides" / "serving.md")
    (example,) = (block.code for block in page if block.language == "python" and "import grpc" in block.code)
    (tmp_path / "docs" / "images").mkdir(parents=True)
    (tmp_path / "docs" / "images" / "seven.png").write_bytes(encode(photographs()[0], "PNG"))
    monkeypatch.chdir(tmp_path)
    code = example.replace("localhost:8500", f"127.0.0.1:{stand_in.grpc_port}").replace("mixer_digits", "mixer")
    exec(compile(code, "<serving.md>", "exec"), {})
    label, probability = capsys.readouterr().out.split()
    assert re.fullmatch("[a-j]", label)
    assert 0 < float(probability) < 1

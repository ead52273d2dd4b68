"""The client of TensorFlow Serving, against a stand-in that speaks its protocols."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer

import keras
import numpy as np
import pytest
from conftest import randomize
from image_files import encode, evaluated, photographs, turned
from model_server import Handler, ModelServer
from pages import ROOT, blocks

import keras_mixer
from keras_mixer import cli, serving
from keras_mixer.serving import Answer, Client, ServingError, answers_in

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="serves files of TensorFlow")

ROW = {"probabilities": [0.25, 0.75], "classes": [1, 0], "labels": ["b", "a"]}
GOOD = (200, None)


@pytest.fixture(scope="module")
def model():
    model = randomize(keras_mixer.Mixer(4, 1, 16, 8, 16, input_shape=(8, 8, 3), classes=10), np.random.default_rng(0))
    model.class_names, model.evaluation_crop = tuple("abcdefghij"), "resize"
    return model


@pytest.fixture(scope="module")
def stand_in(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "mixer"
    keras_mixer.export_saved_model(model, folder, version=4)
    with ModelServer("mixer", folder) as server:
        yield server


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """What the graph reads (JPEG, PNG with alpha, gray PNG) and what is prepared here (a turned photograph, WebP)."""
    folder, photograph = tmp_path_factory.mktemp("images"), photographs()[1]
    contents = {
        "a.jpg": encode(photograph, "JPEG"),
        "b.png": encode(photograph[:50, :40], "PNG", "RGBA"),
        "c.png": encode(photograph, "PNG", "L"),
        "turned.jpg": turned(photograph),
        "e.webp": encode(photograph, "WEBP", lossless=True),
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in contents]


@pytest.fixture(scope="module")
def rows(model, files):
    """The probabilities of the model itself for these files."""
    upright = [(path.read_bytes(), 6 if path.name == "turned.jpg" else 1) for path in files]
    pixels = [evaluated(encoded, (8, 8), "resize", orientation) for encoded, orientation in upright]
    return np.asarray(model(np.stack(pixels).astype(np.float32)))


def test_answers_are_the_models_whatever_the_format(stand_in, files, rows):
    client = Client(f"{stand_in.url}/versions/4")
    for answer, row in zip(client.classify([path.read_bytes() for path in files[:3]]), rows, strict=False):
        np.testing.assert_allclose(answer.probabilities, row, atol=1e-5)
        assert (
            answer.labels
            == ["abcdefghij"[i] for i in answer.classes]
            == ["abcdefghij"[i] for i in np.argsort(-row)[:5]]
        )
    for top_k, named in ((3, 3), (8, 5)):  # exported with the best five
        for path, prediction, row in zip(files, client.predict(files, top_k), rows, strict=True):
            assert prediction.image == str(path)
            assert prediction.labels == tuple("abcdefghij"[i] for i in np.argsort(-row)[:named])
            np.testing.assert_allclose(prediction.probabilities, np.sort(row)[::-1][:named], atol=1e-5)


def test_a_broken_file_is_named_and_the_others_are_answered(stand_in, files, tmp_path):
    for name, content in (("cut.png", files[1].read_bytes()[:200]), ("empty.png", b"")):
        (tmp_path / name).write_bytes(content)
    client, bad = Client(stand_in.url), [tmp_path / name for name in ("cut.png", "missing.jpg", "empty.png")]
    with pytest.raises(ValueError, match=r"cannot be decoded.*indices in the batch:\] \[1\]"):
        client.classify([files[0].read_bytes(), b"no image"])
    found = list(client.predict([files[2], *bad, files[0]]))
    told = f"{bad[0]}: the server cannot decode it.", f"There is no image file {bad[1]}.", f"{bad[2]}: empty"
    assert tuple(map(str, found[1:4])) == told
    assert [found[0].image, found[4].image] == [str(files[2]), str(files[0])]


@pytest.fixture
def gateway():
    """A proxy in front of a server: answers from a list of `(status, content)`, and keeps what it was asked."""
    answers, asked = [], []

    class Gateway(Handler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, self.headers["Authorization"], len(body["instances"])))
            status, content = answers.pop(0) if len(answers) > 1 else answers[0]
            self.answer(status, content or {"predictions": [ROW] * len(body["instances"])})

    with ThreadingHTTPServer(("127.0.0.1", 0), Gateway) as proxy:
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, args=(0.05,)).start()
        yield f"http://127.0.0.1:{proxy.server_port}", answers, asked
        proxy.shutdown()


def test_a_path_a_label_and_a_token_reach_the_server(gateway, files, capsys):
    url, answers, asked = gateway
    answers.append(GOOD)
    address = f"{url}/team/v1/models/mixer/labels/stable"
    options = ["--server", address, "--header", "Authorization: Bearer abc", "--images-per-request", "2", "--json"]
    assert cli.main(["predict", *map(str, files[:3]), *options]) == 0
    path = "/team/v1/models/mixer/labels/stable:predict"
    assert asked == [(path, "Bearer abc", 2), (path, "Bearer abc", 1)]
    assert [row["labels"] for row in json.loads(capsys.readouterr().out)] == [["b", "a"]] * 3


@pytest.mark.parametrize("refusal", [(400, {"error": "Task size 3 is larger than 1"}), (413, "<html>")])
def test_a_request_that_is_too_large_is_sent_in_halves(gateway, files, refusal):
    url, answers, asked = gateway
    answers += [refusal, GOOD]
    assert len(list(Client(f"{url}/v1/models/mixer").predict(files[:3]))) == 3
    assert [count for *_, count in asked] == [3, 1, 2]


@pytest.mark.parametrize(
    ("status", "attempts", "message"),
    [
        (429, 3, "limits the number of requests"),
        (502, 3, "a proxy got no answer from TensorFlow Serving"),
        (503, 3, "busy or starting"),
        (504, 3, "a proxy did not wait long enough"),
        (413, 1, "takes no request of this size: raise the limit of the proxy"),
        (401, 1, "Unauthorized"),
        (404, 1, "Servable not found"),
        (400, 1, "Serving signature name"),
    ],
)
def test_a_refusal_is_explained_and_what_may_pass_is_retried(gateway, files, status, attempts, message, monkeypatch):
    url, answers, asked = gateway
    monkeypatch.setattr(serving, "BACKOFF", 0.001)
    answers.append((status, {"error": message}))
    client, kind = Client(f"{url}/v1/models/mixer", retries=2), ValueError if status == 413 else ServingError
    with pytest.raises(kind, match=f"{url}/v1/models/mixer answered {status} .*: .*{message}"):
        raise next(client.predict(files[:1]))  # of a single image that is too large
    assert len(asked) == attempts
    if attempts > 1:
        answers[:] = [(status, "<html>"), GOOD]
        assert len(list(client.predict(files[:1]))) == 1


def test_a_server_that_does_not_answer_is_not_waited_for(stand_in, files, monkeypatch):
    images, predict = [files[0].read_bytes()], stand_in.predict
    monkeypatch.setattr(stand_in, "predict", lambda *arguments: time.sleep(0.5) or predict(*arguments))
    with pytest.raises(ServingError, match=r"gave no answer: .*Read timed out.* raise --timeout"):
        Client(stand_in.url, timeout=0.2).classify(images)
    time.sleep(0.5)
    with pytest.raises(ServingError, match=r"gave no answer: .*Connection refused\. Is TensorFlow Serving running"):
        Client("http://127.0.0.1:1/v1/models/mixer").classify(images)
    for wrong in ("", "localhost:8501", "grpc://localhost:1/v1/models/m"):
        with pytest.raises(ValueError, match="Expected an address such as http://HOST:8501/v1"):
            Client(wrong)


def test_a_malformed_answer_is_a_serving_error():
    content = json.dumps({"predictions": [ROW]})
    assert answers_in(content, 1) == [Answer([0.25, 0.75], [1, 0], ["b", "a"])]
    changes = {"probabilities": ["a"]}, {"classes": [2, 0]}, {"classes": [1]}, {"labels": None}
    wrong = None, [ROW, ROW], [[0.25, 0.75]], *([ROW | change] for change in changes)
    malformed = [json.dumps({"predictions": rows}) for rows in wrong]
    for content in (*malformed, "{}", b"", b"<html>", b"\xff", b"[" * 100_000):
        with pytest.raises(ServingError, match="not that of a model exported by this package"):
            answers_in(content, 1)


def test_no_answer_is_lost_or_wrong_when_threads_share_a_client(stand_in, files, rows):
    before, client, images = stand_in.answered, Client(stand_in.url), [path.read_bytes() for path in files[:3]]

    def ask(number):
        (answer,) = client.classify([images[number % 3]])
        np.testing.assert_allclose(answer.probabilities, rows[number % 3], atol=1e-5)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(96)))
    assert stand_in.answered - before == 96


def test_the_grpc_example_of_the_guide(stand_in, files, rows, tmp_path, monkeypatch, capsys):
    pytest.importorskip("tensorflow_serving", reason="needs tensorflow-serving-api")
    page = blocks(ROOT / "docs" / "guides" / "serving.md")
    (example,) = (block.code for block in page if block.language == "python" and "import grpc" in block.code)
    (tmp_path / "docs" / "images").mkdir(parents=True)
    (tmp_path / "docs" / "images" / "seven.png").write_bytes(files[2].read_bytes())
    monkeypatch.chdir(tmp_path)
    code = example.replace("localhost:8500", f"127.0.0.1:{stand_in.grpc_port}").replace("mixer_digits", "mixer")
    exec(compile(code, "<serving.md>", "exec"), {})
    label, probability = capsys.readouterr().out.split()
    assert (label, float(probability)) == ("abcdefghij"[rows[2].argmax()], pytest.approx(rows[2].max(), abs=1e-3))

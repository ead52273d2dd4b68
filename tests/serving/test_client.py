"""The client of TensorFlow Serving, against a stand-in that speaks its protocols, and the real one if there is one."""

import shutil
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from conftest import randomize
from image_files import encode, evaluated, photographs, turned
from model_server import ModelServer

import keras_mixer
from keras_mixer import cli
from keras_mixer.serving.client import connect, predict_files
from keras_mixer.serving.protocol import Address, ServingError, UnreadableImageError

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="serves files of TensorFlow")

BINARY = shutil.which("tensorflow_model_server")
CLIENTS, REQUESTS = 32, 320


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
        server.wait_until_available(4)
        yield server


@pytest.fixture
def server(stand_in):
    yield stand_in
    stand_in.busy, stand_in.delay = 0, 0.0


@pytest.fixture(scope="module", params=["stand-in", "tensorflow_model_server"])
def ports(request, stand_in, base_path):
    """REST and gRPC port of a server with version 4 of model "mixer"."""
    if request.param == "stand-in":
        yield stand_in.rest_port, stand_in.grpc_port
        return
    if BINARY is None:
        pytest.skip("tensorflow_model_server is not on the PATH")
    rest, grpc = free_port(), free_port()
    command = [
        BINARY,
        f"--rest_api_port={rest}",
        f"--port={grpc}",
        "--model_name=mixer",
        f"--model_base_path={base_path}",
    ]
    process = subprocess.Popen(command)
    client = connect(f"http://127.0.0.1:{rest}/v1/models/mixer")
    try:
        for _ in range(600):
            try:
                if client.status()[0].state == "AVAILABLE":
                    break
            except (ServingError, IndexError):
                time.sleep(0.1)
        yield rest, grpc
    finally:
        client.close()
        process.terminate()
        process.wait()


@pytest.fixture(params=["rest", "grpc"])
def url(request, ports):
    """Address of the server, by either protocol, to add a model's name to."""
    rest, grpc = ports
    if request.param == "rest":
        return f"http://127.0.0.1:{rest}/v1/models/"
    pytest.importorskip("tensorflow_serving", reason="needs extra [serving]")
    return f"grpc://127.0.0.1:{grpc}/"


@pytest.fixture
def client(url):
    client = connect(url + "mixer")
    yield client
    client.close()


@pytest.fixture(scope="module")
def images():
    photograph = photographs()[1]
    return [turned(photograph), encode(photograph[:50, :40], "PNG", "RGBA"), encode(photograph, "PNG", "L")]


def expected(model, images):
    pixels = np.stack([evaluated(image, (8, 8), "resize") for image in images]).astype(np.float32)
    return np.asarray(model(pixels))


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_answers_are_the_models(client, model, images):
    answers = client.classify(images)
    probabilities = expected(model, images)
    np.testing.assert_allclose([answer.probabilities for answer in answers], probabilities, atol=1e-5)
    for answer, row in zip(answers, probabilities, strict=True):
        assert answer.classes == tuple(np.argsort(-row)[:5])
        assert answer.labels == tuple("abcdefghij"[i] for i in answer.classes)


def test_status_names_the_versions(client):
    (status,) = client.status()
    assert (status.version, status.state, status.error) == (4, "AVAILABLE", "")


def test_one_version_can_be_asked(url, model, images):
    answer = connect(url + "mixer/versions/4").classify(images[:1])[0]
    np.testing.assert_allclose(answer.probabilities, expected(model, images[:1])[0], atol=1e-5)


def test_what_is_not_there_is_named(url, images):
    with pytest.raises(ServingError, match="has no model 'mixes'; check the name"):
        connect(url + "mixes").classify(images)
    assert connect(url + "mixes").status() == []
    with pytest.raises(ServingError, match=r"'mixer' at .* has no version 7; it has 4"):
        connect(url + "mixer/versions/7").classify(images)


def test_an_unreadable_file_is_named(client, images, tmp_path):
    with pytest.raises(UnreadableImageError, match=r"cannot be decoded.*indices in the batch:\] \[1\]"):
        client.classify([images[0], b"no image"])
    paths = [tmp_path / name for name in ("a.jpg", "b.jpg", "c.png")]
    for path, content in zip(paths, [images[0], images[1][:200], images[1]], strict=True):
        path.write_bytes(content)
    (tmp_path / "e.png").write_bytes(b"")
    found = predict_files(client, [*paths, tmp_path / "d.jpg", tmp_path / "e.png"])
    assert [str(answer) for answer in found if isinstance(answer, Exception)] == [
        f"{paths[1]}: the server cannot decode it.",
        f"There is no image file {tmp_path / 'd.jpg'}.",
        f"{tmp_path / 'e.png'}: empty",
    ]
    assert [answer.image for answer in found if not isinstance(answer, Exception)] == [*map(str, paths[::2])]
    assert [prediction.image for prediction in predict_files(client, [paths[2], paths[0]])] == [*map(str, paths[::-2])]
    with pytest.raises(ValueError, match="returns only its 5 best classes; use --top-k 5"):
        predict_files(client, paths[:1], top_k=6)


@pytest.fixture(params=["rest", "grpc"])
def faulty_url(request, server):
    if request.param == "rest":
        return f"http://127.0.0.1:{server.rest_port}/v1/models/mixer"
    pytest.importorskip("tensorflow_serving", reason="needs extra [serving]")
    return f"grpc://127.0.0.1:{server.grpc_port}/mixer"


def quick(url, **options):
    address = Address.of(url)
    if address.scheme == "grpc":
        from keras_mixer.serving.grpc_client import GrpcClient

        return GrpcClient(address, backoff=0.01, **options)
    from keras_mixer.serving.rest import RestClient

    return RestClient(address, backoff=0.01, **options)


def test_a_busy_server_is_asked_again(server, faulty_url, images):
    server.busy = 3
    assert len(quick(faulty_url, retries=4).classify(images)) == 3
    assert server.busy == 0
    server.busy = 100
    with pytest.raises(ServingError, match="stayed unavailable in 3 attempts: The batch scheduling queue"):
        quick(faulty_url, retries=2).classify(images)
    assert server.busy == 97
    with pytest.raises(ServingError, match="stayed unavailable in 5 attempts"):
        quick(faulty_url).classify(images)


def test_a_slow_server_is_not_waited_for(server, faulty_url, images):
    server.delay = 0.6
    with pytest.raises(ServingError, match=r"did not answer within 0\.2 s; raise --timeout"):
        quick(faulty_url, timeout=0.2).classify(images)
    time.sleep(0.6)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_port_nobody_listens_at_is_named(scheme, images):
    if scheme == "grpc":
        pytest.importorskip("tensorflow_serving", reason="needs extra [serving]")
    path = {"http": "/v1/models/mixer", "grpc": "/mixer"}[scheme]
    client = quick(f"{scheme}://127.0.0.1:{free_port()}{path}", retries=1)
    for act in (client.status, lambda: client.classify(images)):
        with pytest.raises(ServingError, match=r"connection refused\. Is TensorFlow Serving running there"):
            act()


def test_a_model_that_is_loading_or_broken_is_told_apart(base_path, images, tmp_path):
    folder = shutil.copytree(base_path, tmp_path / "mixer")
    with ModelServer("mixer", folder) as server:
        server.hold = True
        client = connect(f"http://127.0.0.1:{server.rest_port}/v1/models/mixer")
        while not server.versions:
            time.sleep(0.01)
        with pytest.raises(ServingError, match=r"Version 4 of model 'mixer' at .* is still loading"):
            client.classify(images)
        server.hold = False
        server.wait_until_available(4)
        (folder / "5").mkdir()
        while server.versions.get(5) is None or server.versions[5].state != "END":
            time.sleep(0.01)
        assert len(client.classify(images)) == 3  # version 4 goes on
        with pytest.raises(ServingError, match=r"Version 5 of model 'mixer' at .* failed to load: "):
            connect(f"http://127.0.0.1:{server.rest_port}/v1/models/mixer/versions/5").classify(images)


def test_what_is_no_tensorflow_serving_is_told(images):
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as other:
        thread = threading.Thread(target=other.serve_forever, args=(0.05,))
        thread.start()
        with pytest.raises(ServingError, match="something that is not JSON: is it the REST port"):
            connect(f"http://127.0.0.1:{other.server_port}/v1/models/mixer").classify(images)
        other.shutdown()
        thread.join()


@pytest.mark.parametrize("url", ["", "localhost:8501", "http://localhost:8501/", "grpc://localhost/x", "ftp://a:1/b"])
def test_a_url_that_is_no_server_is_refused(url):
    with pytest.raises(ValueError, match="Expected a server like http://HOST:8501/v1/models/NAME"):
        connect(url)


def test_addresses():
    assert Address.of("http://a.b:8501/v1/models/m/versions/12") == Address("http", "a.b:8501", "m", 12)
    assert Address.of("grpc://[::1]:8500/m") == Address("grpc", "[::1]:8500", "m")


def test_the_command_asks_the_server(server, images, tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(images[0])
    address = f"http://127.0.0.1:{server.rest_port}/v1/models/mixer"
    assert cli.main(["predict", "--server", address, str(tmp_path / "a.jpg"), "--top-k", "2"]) == 0
    assert capsys.readouterr().out.count("%") == 2
    assert cli.main(["predict", "--server", address + "s", str(tmp_path / "a.jpg")]) == 2
    assert "has no model 'mixers'" in capsys.readouterr().err


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_no_answer_is_lost_or_wrong_under_load_while_the_version_changes(model, base_path, images, tmp_path, scheme):
    if scheme == "grpc":
        pytest.importorskip("tensorflow_serving", reason="needs extra [serving]")
    folder = tmp_path / "mixer"
    shutil.copytree(base_path / "4", folder / "4")
    probabilities = expected(model, images)
    with ModelServer("mixer", folder) as server:
        server.wait_until_available(4)
        url = {"http": f"http://127.0.0.1:{server.rest_port}/v1/models/mixer"}.get(
            scheme, f"grpc://127.0.0.1:{server.grpc_port}/mixer"
        )
        clients = [connect(url) for _ in range(CLIENTS)]

        def ask(number):
            which = number % len(images)
            answer = clients[number % CLIENTS].classify([images[which]])[0]
            np.testing.assert_allclose(answer.probabilities, probabilities[which], atol=1e-5)
            if number == REQUESTS // 4:
                shutil.copytree(base_path / "4", tmp_path / "5")
                (tmp_path / "5").rename(folder / "5")
            return True

        with ThreadPoolExecutor(CLIENTS) as pool:
            assert sum(pool.map(ask, range(REQUESTS))) == REQUESTS
        server.wait_until_available(5)
        assert server.answered == REQUESTS
        assert server.versions[4].state == "END"
        for client in clients:
            client.close()

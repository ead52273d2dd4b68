"""Downloads that are refused, by a server on this machine that sends elsewhere or too much."""

import contextlib
import http.server
import io
import threading

import pytest

from keras_mixer.weights.downloads import download


@contextlib.contextmanager
def serving(status=200, headers=(), content=b"0123456789"):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/a"
    finally:
        server.shutdown()
        server.server_close()


ELSEWHERE = ["http://example.org/a", "ftp://example.org/a", "file:///etc/passwd"]


@pytest.mark.parametrize("url", [*ELSEWHERE, "a", "http://127.0.0.1.example.org/"])
def test_only_https_is_fetched(url):
    with pytest.raises(ValueError, match="use https only"):
        download(url, io.BytesIO(), 100)


@pytest.mark.parametrize("target", ELSEWHERE)
def test_a_redirect_to_something_else_is_not_followed(target):
    with (
        serving(302, [("Location", target)]) as url,
        pytest.raises(OSError, match=r"failed: .*(not https|not allowed)"),
    ):
        download(url, io.BytesIO(), 100)


@pytest.mark.parametrize("headers", [[], [("Content-Length", "10")], [("Content-Length", "99999")]])
def test_more_than_asked_for_is_given_up(headers):
    with serving(headers=headers) as url, pytest.raises(OSError, match="larger than 9 bytes"):
        download(url, io.BytesIO(), 9)


@pytest.mark.parametrize("length", ["12", "many"])
def test_a_length_that_is_not_true_fails(length):
    with serving(headers=[("Content-Length", length)]) as url, pytest.raises(OSError, match="Run the command again"):
        download(url, io.BytesIO(), 100)


def test_the_content_arrives():
    file = io.BytesIO()
    with serving(headers=[("Content-Length", "10")]) as url:
        download(url, file, 10, progress=True)
    assert file.getvalue() == b"0123456789"

"""Weight files in every known layout, their names written out from the sources, and a server for them."""

import contextlib
import http.server
import threading

import numpy as np

# Their words for ours.
LINEN = {"mixer_block_": "MixerBlock_", "/layer_norm_": "/LayerNorm_", "/dense_": "/Dense_"}
LINEN |= {"/gamma": "/scale", "/beta": "/bias"}
PRE_LINEN = LINEN | {
    "stem": "embedding",
    "pre_head_layer_norm": "Mixer/encoder_norm",
    "mixer_block_": "Mixer/encoderblock_",
    **{f"_mixing/dense_{k}/{part}": f"_mixing_phase_0/{part}{k + 1}" for k in (0, 1) for part in ("kernel", "bias")},
}
TIMM = {
    "stem": "stem.proj",
    "pre_head_layer_norm": "norm",
    "mixer_block_": "blocks.",
    **{f"/layer_norm_{k}": f".norm{k + 1}" for k in (0, 1)},
    **{f"/{ours}_mixing/dense_{k}": f".mlp_{ours}s.fc{k + 1}" for k in (0, 1) for ours in ("token", "channel")},
    **{"/kernel": ".weight", "/gamma": ".weight", "/bias": ".bias", "/beta": ".bias"},
}


def _renamed(weights, words):
    """`(our name, theirs, array)` of each weight."""
    for ours, array in weights.items():
        theirs = ours
        for word, other in sorted(words.items(), key=lambda pair: -len(pair[0])):
            theirs = theirs.replace(word, other)
        yield ours, theirs, array


def linen(weights):
    """The official layout of today from our weights by name."""
    return {theirs: array for _, theirs, array in _renamed(weights, LINEN)}


def pre_linen(weights, first_norm=0):
    """The older official layout: other scopes, axes of length 1, LayerNorms numbered from anywhere."""
    words = PRE_LINEN | {f"/layer_norm_{k}/": f"/LayerNorm_{k + first_norm}/" for k in (0, 1)}
    return {theirs: array[None] if "_mixing/" in ours else array for ours, theirs, array in _renamed(weights, words)}


def timm(weights):
    """timm's names and PyTorch's orientation."""
    order = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
    named = _renamed(weights, TIMM)
    return {theirs: np.ascontiguousarray(array.transpose(order[array.ndim])) for _, theirs, array in named}


@contextlib.contextmanager
def serving(answer):
    """The address of a server on this machine; `answer` is called with the handler of each request."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            answer(self)

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def send(handler, content, length=None, status=200, headers=()):
    handler.send_response(status)
    for key, value in dict(headers).items():
        handler.send_header(key, value)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(content)

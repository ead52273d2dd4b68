"""Weight files in every known layout, their names written out from the sources, and a server for them."""

import contextlib
import http.server
import threading

import numpy as np


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


def linen(weights, blocks):
    """The official layout of today from our weights by name."""
    arrays = {}
    for part in ("kernel", "bias"):
        arrays[f"stem/{part}"] = weights[f"stem/{part}"]
        arrays[f"head/{part}"] = weights[f"head/{part}"]
    arrays["pre_head_layer_norm/scale"] = weights["pre_head_layer_norm/gamma"]
    arrays["pre_head_layer_norm/bias"] = weights["pre_head_layer_norm/beta"]
    for i in range(blocks):
        for k in (0, 1):
            arrays[f"MixerBlock_{i}/LayerNorm_{k}/scale"] = weights[f"mixer_block_{i}/layer_norm_{k}/gamma"]
            arrays[f"MixerBlock_{i}/LayerNorm_{k}/bias"] = weights[f"mixer_block_{i}/layer_norm_{k}/beta"]
            for mlp in ("token_mixing", "channel_mixing"):
                for part in ("kernel", "bias"):
                    own = weights[f"mixer_block_{i}/{mlp}/dense_{k}/{part}"]
                    arrays[f"MixerBlock_{i}/{mlp}/Dense_{k}/{part}"] = own
    return arrays


def pre_linen(weights, blocks, first_norm=0):
    """The older official layout: other scopes, axes of length 1, LayerNorms numbered from anywhere."""
    arrays = {}
    for part in ("kernel", "bias"):
        arrays[f"embedding/{part}"] = weights[f"stem/{part}"]
        arrays[f"head/{part}"] = weights[f"head/{part}"]
    arrays["Mixer/encoder_norm/scale"] = weights["pre_head_layer_norm/gamma"]
    arrays["Mixer/encoder_norm/bias"] = weights["pre_head_layer_norm/beta"]
    for i in range(blocks):
        block = f"Mixer/encoderblock_{i}"
        for k in (0, 1):
            arrays[f"{block}/LayerNorm_{k + first_norm}/scale"] = weights[f"mixer_block_{i}/layer_norm_{k}/gamma"]
            arrays[f"{block}/LayerNorm_{k + first_norm}/bias"] = weights[f"mixer_block_{i}/layer_norm_{k}/beta"]
            for mlp in ("token_mixing", "channel_mixing"):
                for part in ("kernel", "bias"):
                    own = weights[f"mixer_block_{i}/{mlp}/dense_{k}/{part}"]
                    arrays[f"{block}/{mlp}_phase_0/{part}{k + 1}"] = own[None]
    return arrays


def timm(weights, blocks):
    """timm's names and PyTorch's orientation."""
    arrays = {
        "stem.proj.weight": weights["stem/kernel"].transpose(3, 2, 0, 1),
        "stem.proj.bias": weights["stem/bias"],
        "norm.weight": weights["pre_head_layer_norm/gamma"],
        "norm.bias": weights["pre_head_layer_norm/beta"],
        "head.weight": weights["head/kernel"].T,
        "head.bias": weights["head/bias"],
    }
    for i in range(blocks):
        for k in (0, 1):
            arrays[f"blocks.{i}.norm{k + 1}.weight"] = weights[f"mixer_block_{i}/layer_norm_{k}/gamma"]
            arrays[f"blocks.{i}.norm{k + 1}.bias"] = weights[f"mixer_block_{i}/layer_norm_{k}/beta"]
            for theirs, ours in {"mlp_tokens": "token_mixing", "mlp_channels": "channel_mixing"}.items():
                arrays[f"blocks.{i}.{theirs}.fc{k + 1}.weight"] = weights[f"mixer_block_{i}/{ours}/dense_{k}/kernel"].T
                arrays[f"blocks.{i}.{theirs}.fc{k + 1}.bias"] = weights[f"mixer_block_{i}/{ours}/dense_{k}/bias"]
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}

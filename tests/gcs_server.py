"""A stand-in for Google Cloud Storage that speaks the part of its JSON API that a run uses, on the loopback address."""

import contextlib
import http.server
import json
import re
import threading
import urllib.parse


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers for the objects in `server.objects`, which maps names to bytes; there is one bucket."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        if "/o/" not in url.path:
            query = dict(urllib.parse.parse_qsl(url.query))
            names = sorted(name for name in self.server.objects if name.startswith(query.get("prefix", "")))
            return self.answer({"kind": "storage#objects", "items": list(map(self.resource, names))})
        name = self.object_name()
        if name not in self.server.objects:
            return self.answer({"error": {"code": 404, "message": "no such object"}}, 404)
        return self.answer(self.server.objects[name] if "alt=media" in url.query else self.resource(name))

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        boundary = b"\n--" + re.search(r"boundary=\"?([^\";]+)", self.headers["Content-Type"])[1].encode()
        _, properties, content = body.split(b"\n\n", 2)
        name = json.loads(properties.partition(boundary)[0])["name"]
        self.server.objects[name] = content.removesuffix(boundary + b"--")
        return self.answer(self.resource(name))

    def do_DELETE(self):
        del self.server.objects[self.object_name()]
        return self.answer(b"", 204)

    def log_message(self, *arguments):
        """Nothing: tests do not print requests."""

    def object_name(self):
        return urllib.parse.unquote(urllib.parse.urlsplit(self.path).path.partition("/o/")[2])

    def resource(self, name):
        size = str(len(self.server.objects[name]))
        return {"kind": "storage#object", "bucket": "bucket", "name": name, "size": size, "generation": "1"}

    def answer(self, content, status=200):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def running():
    """The server and its address, while the block runs."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.objects = {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

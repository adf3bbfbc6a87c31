"""What an upload of a dataset needs of the Hugging Face hub: a store of files by their hash, and commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class UploadHub:
    """A server in a thread. datasets: {repository: {path: bytes}}, as committed. blobs: large files by their SHA-256,
    committed or not. sent: hashes in the order in which their content arrived. commits: the messages.

    token: what requests must bring. writable: users to whose datasets it may write; others that exist are `readers`.
    on_upload: called with the number of a large file, from 0, before its content is read; says whether it arrives.
    """

    def __init__(
        self, token: str = "hf_test", writable: tuple[str, ...] = ("me",), readers: tuple[str, ...] = ()
    ) -> None:
        self.token, self.writable, self.readers = token, writable, readers
        self.datasets: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.blobs: dict[str, bytes] = {}
        self.sent: list[str] = []
        self.commits: list[str] = []
        self.cards: list[str] = []  # that were sent to be checked
        self.on_upload: Callable[[int], bool] = lambda number: True
        self._uploads = 0
        self._lock = threading.Lock()
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                if "/resolve/" in self.path:
                    return self.file()
                return self.route({
                    r"/api/datasets/([^/]+/[^/]+)": hub.info,
                    r"/api/datasets/([^/]+/[^/]+)/revision/main": hub.info,
                    r"/api/datasets/([^/]+/[^/]+)/tree/main": hub.tree,
                })  # fmt: skip

            def do_POST(self) -> None:
                self.route({
                    r"/api/repos/create": hub.create,
                    r"/api/validate-yaml": hub.validate,
                    r"/api/datasets/([^/]+/[^/]+)/preupload/main": hub.preupload,
                    r"/api/datasets/([^/]+/[^/]+)/commit/main": hub.commit,
                    r"/datasets/([^/]+/[^/]+)\.git/info/lfs/objects/batch": hub.batch,
                })  # fmt: skip

            def do_HEAD(self) -> None:
                self.file()

            def file(self) -> None:
                """A committed file, as downloads ask for it."""
                _, user, dataset, _, _, path = self.path[1:].split("/", 5)
                data = hub.datasets[f"{user}/{dataset}"].get(path)
                self.send_response(404 if data is None else 200)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha1(data or b"").hexdigest()}"')
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data or b"")

            def do_PUT(self) -> None:
                with hub._lock:
                    number, hub._uploads = hub._uploads, hub._uploads + 1
                if not hub.on_upload(number):
                    self.close_connection = True
                    return None
                oid = self.path.rpartition("/")[2]
                data = self.rfile.read(int(self.headers["Content-Length"]))
                assert hashlib.sha256(data).hexdigest() == oid
                hub.blobs[oid] = data
                hub.sent.append(oid)
                return self.reply(200, {})

            def route(self, routes: dict[str, Callable[..., tuple[int, object]]]) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Authorization") != f"Bearer {hub.token}":
                    return self.reply(401, {"error": "Invalid username or password."})
                path = self.path.partition("?")[0]
                for pattern, answer in routes.items():
                    if match := re.fullmatch(pattern, path):
                        with hub._lock:
                            return self.reply(*answer(body, *match.groups()))
                return self.reply(404, {"error": f"no such path: {path}"})

            def reply(self, status: int, answer: object) -> None:
                data = json.dumps(answer).encode()
                self.send_response(status)
                if status >= 400:
                    self.send_header("X-Error-Message", str(answer["error"]))  # type: ignore[index]
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def create(self, body: bytes) -> tuple[int, object]:
        asked = json.loads(body)
        user, name = asked["organization"], f"{asked['organization']}/{asked['name']}"
        if name in self.datasets and user in self.writable:
            return 409, {"error": "You already created this dataset repo", "url": f"{self.url}/datasets/{name}"}
        if user not in self.writable:
            known = user in self.readers
            return (403 if known else 404), {"error": "You don't have the rights" if known else "no such namespace"}
        self.datasets[name] = {}
        self.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
        return 200, {"url": f"{self.url}/datasets/{name}", "name": name, "id": name}

    def info(self, body: bytes, name: str) -> tuple[int, object]:
        if name not in self.datasets:
            return 404, {"error": "Repository not found"}
        return 200, {"id": name, "sha": COMMIT, "private": self.private[name],
                     "siblings": [{"rfilename": path} for path in self.datasets[name]]}  # fmt: skip

    def tree(self, body: bytes, name: str) -> tuple[int, object]:
        files = self.datasets[name]
        return 200, [{"type": "file", "path": path, "oid": "0", "size": len(files[path])} for path in files]

    def validate(self, body: bytes) -> tuple[int, object]:
        self.cards.append(json.loads(body)["content"])
        return 200, {"errors": [], "warnings": []}

    def preupload(self, body: bytes, name: str) -> tuple[int, object]:
        if name.partition("/")[0] not in self.writable:
            return 403, {"error": "Forbidden"}
        return 200, {"files": [self._mode(name, one["path"]) for one in json.loads(body)["files"]]}

    def _mode(self, name: str, path: str) -> dict[str, object]:
        large = path.endswith(".parquet")
        there = self.datasets[name].get(path)
        oid = None
        if there is not None:
            git = hashlib.sha1(b"blob %d\0" % len(there) + there).hexdigest()
            oid = hashlib.sha256(there).hexdigest() if large else git
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

    def batch(self, body: bytes, name: str) -> tuple[int, object]:
        asked = json.loads(body)["objects"]
        wanted = [{**one, "actions": {"upload": {"href": f"{self.url}/upload/{one['oid']}"}}} for one in asked]
        return 200, {
            "objects": [new if new["oid"] not in self.blobs else one for one, new in zip(asked, wanted, strict=True)]
        }

    def commit(self, body: bytes, name: str) -> tuple[int, object]:
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.commits.append(value["summary"])
            elif line["key"] == "file":
                self.datasets[name][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.datasets[name][value["path"]] = self.blobs[value["oid"]]
            elif line["key"] == "deletedFile":
                del self.datasets[name][value["path"]]
        return 200, {"commitUrl": f"{self.url}/datasets/{name}/commit/{COMMIT}", "commitOid": COMMIT}

"""A hub on this computer, in memory: as much of the Hugging Face Hub as huggingface_hub and timm ask for."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_tests"


class FakeHub:
    """Repositories by kind and name: a list of commits, each the content of every file."""

    def __init__(self) -> None:
        self.repositories: dict[str, list[dict[str, bytes]]] = {}
        self.branches: dict[str, dict[str, int]] = {}
        self.private: set[str] = set()
        self.stored: dict[str, bytes] = {}  # large files by sha256
        self.cut: int | None = None  # bytes of a file after which a download breaks off
        self.refuse_uploads = False  # whether the connection of an upload is closed in the middle
        self.stalls = False  # whether an upload gets no answer
        self.closing = threading.Event()
        self.asked: list[str] = []
        self.url = ""

    def environment(self, home: Path) -> dict[str, str]:
        """The environment variables of a process that asks this hub, with its token and the cache in a folder."""
        variables = {"HF_ENDPOINT": self.url, "HF_TOKEN": TOKEN, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        return {**variables, "NO_PROXY": "127.0.0.1"}

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """The files of "models/user/name" or "datasets/user/name"."""
        return self.repositories[name][self.number(name, revision)]

    def number(self, name: str, revision: str) -> int:
        """The number of a commit; raises `KeyError` for an unknown revision."""
        commits = self.repositories[name]
        if revision == "main":
            return len(commits) - 1
        return {**{commit_of(name, i): i for i in range(len(commits))}, **self.branches.get(name, {})}[revision]

    def commit(self, name: str, files: dict[str, bytes]) -> None:
        """Adds a commit with these files only."""
        self.repositories.setdefault(name, []).append(dict(files))


def commit_of(name: str, number: int) -> str:
    """The hash of a commit."""
    return hashlib.sha1(f"{name} {number}".encode(), usedforsecurity=False).hexdigest()


@contextmanager
def serve() -> Iterator[FakeHub]:
    """A hub that runs during the block."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is logged."""

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def do_PUT(self) -> None:
        if self.hub.refuse_uploads:
            self.rfile.read(1)
            self.close_connection = True
            self.connection.close()
            return
        content = self._body()
        if self.hub.stalls:
            self.hub.closing.wait()
            self.close_connection = True
            return
        self.hub.stored[hashlib.sha256(content).hexdigest()] = content
        self._answer({})

    def do_POST(self) -> None:
        path, body = urlsplit(self.path).path, self._body()
        if not self._allowed():
            return
        if path == "/api/validate-yaml":
            self._answer({"errors": [], "warnings": [{"message": "empty metadata"}]})
        elif path == "/api/repos/create":
            values = json.loads(body)
            name = f"{values.get('type', 'model')}s/{values['organization']}/{values['name']}"
            if not name.split("/")[1].startswith("user"):
                self._fail(403, "", "You may not write here")
                return
            self.hub.repositories.setdefault(name, [{}])
            if values.get("visibility") == "private" or values.get("private"):
                self.hub.private.add(name)
            self._answer({"url": self._page(name)})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["path"].endswith((".safetensors", ".npy")) else "regular",
                    "shouldIgnore": False,
                }
                for file in files
            ]
            self._answer({"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**item, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{item['oid']}"}}}
                for item in json.loads(body)["objects"]
            ]
            self._answer({"transfer": "basic", "objects": objects})
        elif "/commit/" in path:
            self._commit(path, body)
        else:
            self._fail(404, "", f"no such address {path}")

    def _commit(self, path: str, body: bytes) -> None:
        found = re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)/commit/main", path)
        assert found
        files = dict(self.hub.files(found[1]))
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.stored[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        self.hub.commit(found[1], files)
        commit = commit_of(found[1], len(self.hub.repositories[found[1]]) - 1)
        self._answer({"commitUrl": f"{self._page(found[1])}/commit/{commit}", "commitOid": commit})

    def _get(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(path)
        if not self._allowed():
            return
        if found := re.fullmatch(r"/api/((?:models|datasets)/[^/]+/[^/]+)(?:/revision/(.+))?", path):
            name, revision = found[1], found[2] or "main"
            if (number := self._find(name, revision)) is not None:
                files = self.hub.repositories[name][number]
                private = name in self.hub.private
                siblings = [{"rfilename": file} for file in files]
                identity = {"id": name.split("/", 1)[1], "sha": commit_of(name, number), "private": private}
                self._answer({**identity, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0})
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            name = f"{found[1] or 'models/'}{found[2]}"
            if (number := self._find(name, found[3])) is None:
                return
            if found[4] not in self.hub.repositories[name][number]:
                self._fail(404, "EntryNotFound", "no such file")
                return
            self._send(self.hub.repositories[name][number][found[4]], commit_of(name, number))
        else:
            self._fail(404, "", f"no such address {path}")

    def _find(self, name: str, revision: str) -> int | None:
        """The number of a commit; answers with an error where there is none."""
        if name not in self.hub.repositories:
            return self._fail(404, "RepoNotFound", "Repository not found")
        if name in self.hub.private and not self._token():
            return self._fail(401, "RepoNotFound", "Repository not found")
        try:
            return self.hub.number(name, revision)
        except KeyError:
            return self._fail(404, "RevisionNotFound", "Invalid rev id")

    def _send(self, content: bytes, commit: str) -> None:
        start = int((re.findall(r"bytes=(\d+)-", self.headers.get("Range") or "") or ["0"])[0])
        part = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Content-Length", str(len(part)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.hub.cut is not None and len(content) > self.hub.cut:
            self.wfile.write(part[: max(0, self.hub.cut - start)])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(part)

    def _page(self, name: str) -> str:
        return f"{self.hub.url}/{name.removeprefix('models/')}"

    def _allowed(self) -> bool:
        """Whether the token is missing or known; answers with an error where it is wrong, or missing for a change."""
        given = self.headers.get("Authorization")
        if given not in (None, f"Bearer {TOKEN}") or (given is None and self.command == "POST"):
            self._fail(401, "", "Invalid credentials in Authorization header")
            return False
        return True

    def _token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, value: Any) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _fail(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

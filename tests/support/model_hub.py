"""A hub on loopback that takes models: as far as `push` and a download of what was pushed ask."""

from __future__ import annotations

import base64
import hashlib
import http.server
import json
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

TOKEN = "hf_a_token_of_the_test"
# What goes through Git LFS; the rest is part of the commit.
LARGE = (".onnx", ".safetensors", ".bin", ".pt2", ".png")


@dataclass
class Repository:
    """A model: its visibility, and the files of its newest commit."""

    private: bool = False
    files: dict[str, bytes] = field(default_factory=lambda: {".gitattributes": b"*.onnx filter=lfs\n"})
    num_commits: int = 1

    @property
    def commit(self) -> str:
        """Its id."""
        return hashlib.sha1(str(self.num_commits).encode()).hexdigest()


@dataclass(frozen=True)
class Asked:
    """A request: to the hub or to its storage, which is another server, with the token that it carried."""

    server: str
    method: str
    path: str
    token: str | None


class ModelHub:
    """What it holds, what it was asked, and how it misbehaves.

    Attributes:
        repositories: by name; `user` owns what is made.
        stored: large files by SHA-256.
        refuses: status and message of the answer to paths that end in a word.
        ignores: names that a .gitignore leaves out.
        stalls: set once an upload to the storage has begun; then none is answered.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.stored: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self.refuses: dict[str, tuple[int, str]] = {}
        self.ignores: set[str] = set()
        self.stalls: threading.Event | None = None
        self.servers = {name: self._server(name) for name in ("hub", "storage")}

    def _server(self, name: str) -> http.server.ThreadingHTTPServer:
        class Handler(_Handler):
            hub, server_name = self, name

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        return server

    def address(self, name: str = "hub") -> str:
        """Of the hub or its storage."""
        return f"http://127.0.0.1:{self.servers[name].server_address[1]}"


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: ModelHub
    server_name: str
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        self.hub.asked.append(Asked(self.server_name, self.command, path, token))
        for word, (status, message) in self.hub.refuses.items():
            if word in path:
                self._answer({"error": message}, status)
                return
        if self.server_name == "storage" and self.hub.stalls is not None:
            self.hub.stalls.set()
            self.close_connection = True
            self.connection.settimeout(60)
            self.connection.recv(1)  # until the client gives up
        elif self.server_name == "storage":
            self._store(path.strip("/"), body)
        elif token != TOKEN:
            self._answer({"error": "Invalid credentials in Authorization header"}, 401)
        else:
            self._route(path.strip("/").split("/"), body)

    do_HEAD = do_POST = do_PUT = do_GET

    def _route(self, parts: list[str], body: bytes) -> None:
        match parts:
            case ["api", "repos", "create"]:
                self._create(json.loads(body))
            case ["api", "validate-yaml"]:
                self._answer({"errors": [], "warnings": []})
            case ["api", "models", owner, name, *rest]:
                repository = self.hub.repositories.get(f"{owner}/{name}")
                if repository is None:
                    self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
                elif rest[:1] == ["preupload"]:
                    self._answer({"files": [self._mode(repository, file) for file in json.loads(body)["files"]]})
                elif rest[:1] == ["commit"]:
                    self._commit(f"{owner}/{name}", repository, body)
                elif rest[:1] == ["xet-write-token"]:
                    storage = self.hub.address("storage")
                    self._answer({"casUrl": storage, "accessToken": "of the storage", "exp": 9_999_999_999})
                elif rest[:1] == ["tree"]:
                    self._answer([_node(_entry(file, content)) for file, content in repository.files.items()])
                else:
                    self._describe(f"{owner}/{name}", repository)
            case [_, _, "info", "lfs", "objects", "batch"]:
                self._answer({"objects": [self._action(item) for item in json.loads(body)["objects"]]})
            case [_, _, "info", "lfs", "verify"]:
                asked = json.loads(body)
                there = len(self.hub.stored.get(asked["oid"], b"")) == asked["size"]
                self._answer({}, 200 if there else 404)
            case [owner, name, "resolve", _, *file]:
                self._send(self.hub.repositories[f"{owner}/{name}"], "/".join(file))
            case _:
                self._answer({"error": f"no such endpoint: {parts}"}, 501)

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] != "user":
            self._answer({"error": f"You don't have the rights to create a model under {asked['organization']}"}, 403)
            return
        is_new = name not in self.hub.repositories
        self.hub.repositories.setdefault(name, Repository(asked.get("visibility") == "private"))
        self._answer({"url": f"{self.hub.address()}/{name}"}, 200 if is_new else 409)

    def _describe(self, name: str, repository: Repository) -> None:
        siblings = [_entry(file, content) for file, content in repository.files.items()]
        found = {"id": name, "sha": repository.commit, "private": repository.private, "tags": [], "siblings": siblings}
        self._answer(found)

    def _mode(self, repository: Repository, file: dict[str, Any]) -> dict[str, Any]:
        name = file["path"]
        mode = "lfs" if name.endswith(LARGE) else "regular"
        held = _entry(name, repository.files[name]) if name in repository.files else {}
        oid = held["lfs"]["sha256"] if "lfs" in held else held.get("blobId")
        return {"path": name, "uploadMode": mode, "shouldIgnore": name in self.hub.ignores, "oid": oid}

    def _action(self, item: dict[str, Any]) -> dict[str, Any]:
        if item["oid"] in self.hub.stored:
            return item
        upload = {"href": f"{self.hub.address('storage')}/{item['oid']}"}
        verify = {"href": f"{self.hub.address()}/user/name.git/info/lfs/verify"}
        return {**item, "actions": {"upload": upload, "verify": verify}}

    def _store(self, digest: str, body: bytes) -> None:
        assert hashlib.sha256(body).hexdigest() == digest
        self.hub.stored[digest] = body
        self._answer({})

    def _commit(self, name: str, repository: Repository, body: bytes) -> None:
        files = dict(repository.files)
        for line in body.splitlines():
            match json.loads(line):
                case {"key": "header", "value": header}:
                    if header["parentCommit"] != repository.commit:
                        self._answer({"error": "The branch has moved"}, 412)
                        return
                case {"key": "file", "value": value}:
                    files[value["path"]] = base64.b64decode(value["content"])
                case {"key": "lfsFile", "value": value}:
                    files[value["path"]] = self.hub.stored[value["oid"]]
                case {"key": "deletedFile", "value": value}:
                    del files[value["path"]]
        repository.files, repository.num_commits = files, repository.num_commits + 1
        address = f"{self.hub.address()}/{name}/commit/{repository.commit}"
        self._answer({"commitUrl": address, "commitOid": repository.commit, "success": True})

    def _send(self, repository: Repository, name: str) -> None:
        content = repository.files[name]
        digest = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{digest}"', "X-Linked-Size": str(len(content))}
        self._answer_bytes(content, 200, headers)

    def _answer(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._answer_bytes(
            json.dumps(content).encode(), status, {"Content-Type": "application/json", **(headers or {})}
        )

    def _answer_bytes(self, body: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _entry(name: str, content: bytes) -> dict[str, Any]:
    """What the hub says of a file."""
    entry = {"rfilename": name, "size": len(content)}
    if name.endswith(LARGE):
        lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 100}
        return {**entry, "blobId": "0" * 40, "lfs": lfs}
    return {**entry, "blobId": hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()}


def _node(entry: dict[str, Any]) -> dict[str, Any]:
    """The same in the listing that downloads ask for."""
    lfs = {"oid": entry["lfs"]["sha256"], **entry["lfs"]} if "lfs" in entry else None
    return {"type": "file", "path": entry["rfilename"], "size": entry["size"], "oid": entry["blobId"], "lfs": lfs}


@contextmanager
def model_hub() -> Iterator[ModelHub]:
    """A hub, until the block ends."""
    hub = ModelHub()
    for server in hub.servers.values():
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        for server in hub.servers.values():
            server.shutdown()
            server.server_close()

"""A hub on loopback: serves a folder DIR/<owner>/<name>/ as dataset repositories, as far as `datasets` asks."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789" * 4


class HubServer(http.server.ThreadingHTTPServer):
    """What it was asked is kept.

    Attributes:
        asked: (method, path without its query, Range header or an empty string).
        breaks: whether the next download of a parquet file is cut off at half of what was asked for.
        short: whether parquet files lack their last bytes, which the listing still counts.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.asked: list[tuple[str, str, str]] = []
        self.breaks = self.short = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def downloads(self) -> list[str]:
        """The Range headers of all parquet downloads."""
        return [asked for method, path, asked in self.asked if method == "GET" and path.endswith(".parquet")]

    def run(self, code: str, home: Path, timeout: float = 120, **extra: str) -> subprocess.CompletedProcess[str]:
        """A fresh interpreter that knows no other hub: the libraries read their settings when they are imported."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        settings = {
            **{"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "no_proxy": "127.0.0.1"},
            **{"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1", **extra},
        }
        command = [sys.executable, "-c", code]
        return subprocess.run(
            command, cwd=ROOT, env={**kept, **settings}, capture_output=True, text=True, timeout=timeout, check=False
        )


class _Handler(http.server.BaseHTTPRequestHandler):
    server: HubServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(url.path)
        self.server.asked.append((self.command, path, self.headers.get("Range", "")))
        match path.strip("/").split("/"):
            case ["api", "datasets", owner, name]:
                self._answer_repository(f"{owner}/{name}", COMMIT)
            case ["api", "datasets", owner, name, "revision", revision]:
                self._answer_repository(f"{owner}/{name}", revision)
            case ["api", "datasets", owner, name, "tree", _, *folders]:
                recursive = urllib.parse.parse_qs(url.query).get("recursive", ["False"])[0].lower() == "true"
                self._answer_tree(f"{owner}/{name}", "/".join(folders), recursive)
            case ["api", "datasets", owner, name, "paths-info", _]:
                form = urllib.parse.parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
                listed = [self._entry(f"{owner}/{name}", path) for path in form["paths"]]
                self._answer_json([entry for entry in listed if entry])
            case ["datasets", owner, name, "resolve", revision, *file]:
                self._answer_file(self.server.folder / owner / name / "/".join(file), revision)
            case _:
                self._refuse("EntryNotFound")

    do_HEAD = do_POST = do_GET

    def _entry(self, repository: str, path: str) -> dict[str, Any] | None:
        place = self.server.folder / repository / path
        if place.is_dir():
            return {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}
        if not place.is_file():
            return None
        content = place.read_bytes()
        lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 100}
        return {"type": "file", "oid": "0" * 40, "size": len(content), "path": path, "lfs": lfs}

    def _answer_repository(self, repository: str, revision: str) -> None:
        folder = self.server.folder / repository
        if not folder.is_dir():
            self._refuse("RepoNotFound")
            return
        files = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
        self._answer_json(
            {
                "id": repository,
                "sha": revision,
                "private": False,
                "tags": [],
                "siblings": [{"rfilename": f} for f in files],
            }
        )

    def _answer_tree(self, repository: str, below: str, recursive: bool) -> None:
        folder = self.server.folder / repository
        if not (folder / below).is_dir():
            self._refuse("EntryNotFound")
            return
        paths = sorted((folder / below).rglob("*") if recursive else (folder / below).iterdir())
        self._answer_json([self._entry(repository, str(path.relative_to(folder))) for path in paths])

    def _answer_json(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer_file(self, path: Path, revision: str) -> None:
        if not path.is_file():
            self._refuse("EntryNotFound")
            return
        content = path.read_bytes()
        sha256, size = hashlib.sha256(content).hexdigest(), len(content)
        is_data = path.suffix == ".parquet"
        if is_data and self.server.short:
            content = content[:-100]
        start, end = 0, len(content)
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first), min(int(last) + 1, end) if last else end
        if start >= end:
            self.send_response(416)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        for name, value in {
            "Content-Length": str(end - start),
            "X-Repo-Commit": revision,
            "ETag": f'"{sha256}"',
            "X-Linked-Etag": f'"{sha256}"',
            "X-Linked-Size": str(size),
            "Accept-Ranges": "bytes",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        breaks = is_data and self.server.breaks
        if is_data:
            self.server.breaks = False
        body = content[start : start + (end - start) // 2] if breaks else content[start:end]
        self.wfile.write(body)
        self.close_connection = breaks

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[HubServer]:
    """The hub of a folder, until the block ends."""
    with HubServer(folder) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()

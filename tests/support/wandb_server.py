"""A W&B server on loopback: it speaks as much of the protocol as a run needs, and keeps what it is told."""

from __future__ import annotations

import gzip
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY, PROJECT = "someone", "some-project"


@dataclass
class ServedRun:
    """What the server knows of a run: the last value of each field, all rows of its history, and its files."""

    fields: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exit_codes: list[int] = field(default_factory=list)
    starts: int = 0

    @property
    def config(self) -> dict[str, Any]:
        return {name: entry["value"] for name, entry in json.loads(self.fields["config"]).items()}


@dataclass
class Server:
    """The server's address, and all that it was told."""

    port: int = 0
    runs: dict[str, ServedRun] = field(default_factory=dict)
    artifacts: list[dict[str, Any]] = field(default_factory=list)
    uploads: dict[str, bytes] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL answer; empty for what a run can do without."""
        operation = re.search(r"(?:query|mutation)\s+(\w+)", query)
        handler = operation and getattr(self, f"_{operation[1]}", None)
        return {} if handler is None else handler(given)

    def _Viewer(self, given: dict[str, Any]) -> dict[str, Any]:
        who = {"id": "1", "entity": ENTITY, "username": ENTITY, "email": None, "flags": "{}"}
        return {"viewer": {**who, "teams": {"edges": []}}}

    def _RunResumeStatus(self, given: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(given["name"])
        if run is None:
            return {"model": None}
        bucket = {
            **{"id": given["name"], "name": given["name"], "displayName": run.fields.get("displayName")},
            **{"summaryMetrics": json.dumps(run.summary), "config": run.fields["config"], "tags": run.fields["tags"]},
            **{"historyLineCount": len(run.history), "eventsLineCount": 0, "logLineCount": 0, "notes": None},
            **{"historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]), "eventsTail": "[]"},
            "wandbConfig": "{}",
        }
        project = {"id": PROJECT, "name": PROJECT, "entity": {"id": ENTITY, "name": ENTITY}}
        return {"model": {**project, "bucket": bucket}}

    def _UpsertBucket(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given["name"]
        is_new = name not in self.runs
        run = self.runs.setdefault(name, ServedRun())
        run.starts += given.get("displayName") is not None
        run.fields.update({key: value for key, value in given.items() if value is not None})
        project = {"id": PROJECT, "name": given["project"], "entity": {"id": ENTITY, "name": ENTITY}}
        bucket = {
            **{"id": name, "name": name, "displayName": run.fields.get("displayName"), "description": None},
            **{"config": run.fields["config"], "sweepName": None, "project": project},
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": is_new}}

    def _CreateRunFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{given['run']}/{name}"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _ArtifactType(self, given: dict[str, Any]) -> dict[str, Any]:
        return {"project": None}  # there is no such artifact yet

    def _CreateArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self.artifacts.append({**given["input"], "committed": False})
        number = str(len(self.artifacts))
        artifact = {"id": number, "state": "PENDING", "artifactSequence": {"latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def _CreateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:
        url = f"{self.url}/upload/manifest/{given['artifactID']}"
        file = {"id": "1", "uploadUrl": url, "uploadHeaders": []}
        return {"createArtifactManifest": {"artifactManifest": {"id": given["artifactID"], "file": file}}}

    def _UpdateArtifactManifest(self, given: dict[str, Any]) -> dict[str, Any]:
        url = f"{self.url}/upload/manifest/{given['artifactManifestID']}"
        file = {"id": "1", "uploadUrl": url, "uploadHeaders": []}
        return {"updateArtifactManifest": {"artifactManifest": {"id": given["artifactManifestID"], "file": file}}}

    def _CreateArtifactFiles(self, given: dict[str, Any]) -> dict[str, Any]:
        edges = [
            {
                "node": {
                    "storagePath": one["name"],
                    **{"uploadUrl": f"{self.url}/upload/{one['artifactID']}/{one['name']}", "uploadHeaders": []},
                    **{"uploadMultipartUrls": None, "artifact": {"id": one["artifactID"]}},
                }
            }
            for one in given["input"]["artifactFiles"]
        ]
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, given: dict[str, Any]) -> dict[str, Any]:
        self.artifacts[int(given["artifactID"]) - 1]["committed"] = True
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "x"}}}

    def stream(self, run_id: str, content: dict[str, Any]) -> None:
        """What a run sends while it goes: rows of its history, its summary, how it ended."""
        run, files = self.runs[run_id], content.get("files", {})
        run.history += [json.loads(line) for line in files.get("wandb-history.jsonl", {}).get("content", [])]
        for line in files.get("wandb-summary.json", {}).get("content", []):
            run.summary = json.loads(line)
        if content.get("complete"):
            run.exit_codes.append(content["exitcode"])


class QuietServer(ThreadingHTTPServer):
    """Says nothing of a connection that W&B's process closes when it ends."""

    def handle_error(self, request: Any, client_address: Any) -> None: ...


@contextmanager
def wandb_server() -> Iterator[Server]:
    """Serve on a free port of loopback until the block ends."""
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None: ...

        def _reply(self, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_PUT(self) -> None:
            state.uploads[self.path.removeprefix("/upload/")] = _body(self)
            self._reply({})

        def do_POST(self) -> None:
            body = _body(self)
            with state.lock:
                if self.path == "/graphql":
                    query = json.loads(body)
                    return self._reply({"data": state.answer(query["query"], query.get("variables") or {})})
                if self.path.endswith("/file_stream"):
                    state.stream(self.path.split("/")[-2], json.loads(body))
            self._reply({})

    server = QuietServer(("127.0.0.1", 0), Handler)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _body(request: BaseHTTPRequestHandler) -> bytes:
    """A request's body, in one piece and unpacked."""
    if request.headers.get("Transfer-Encoding") == "chunked":
        content = b""
        while size := int(request.rfile.readline(), 16):
            content += request.rfile.read(size)
            request.rfile.readline()
        request.rfile.readline()
    else:
        content = request.rfile.read(int(request.headers.get("Content-Length", 0)))
    return gzip.decompress(content) if request.headers.get("Content-Encoding") == "gzip" else content

"""Clients that send or take too slowly, over raw sockets: each is let go, and the others are answered."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from tests.serving.conftest import Served
from transfer.serving.server import PunctualProtocol

pytestmark = pytest.mark.slow
Start = Callable[..., Served]
POST = b"POST %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"
FORM = b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
IMAGES = b'Content-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'


def drip(found: Served, sent: bytes, drop: bytes) -> bytes:
    """Send bytes, then the last one again and again, until the server ends the connection; return its answer."""
    answer = b""
    with socket.create_connection(found.address, timeout=60) as connection:
        connection.sendall(sent)
        while True:
            try:
                if drop:
                    connection.sendall(drop)
                readable, _, _ = select.select([connection], [], [], 0.05 if drop else 60)
                if readable and not (part := connection.recv(65536)):
                    return answer
                answer += part if readable else b""
            except (BrokenPipeError, ConnectionResetError):
                return answer


@pytest.fixture
def impatient(served: Start, bundle: Path) -> Served:
    return served(bundle, "--port", "0", "--format", "onnx", "--max_seconds", "1", "--max_requests", "1")


def answered(found: Served, bundle: Path) -> bool:
    photo = next((bundle / "golden").glob("0.*")).read_bytes()
    response = httpx.post(f"{found.url}predict", files={"images": ("a.png", photo)}, trust_env=False)
    return response.status_code == 200 and "class" in response.json()[0]


def test_a_client_that_sends_nothing_or_drips_is_let_go(impatient: Served, bundle: Path) -> None:
    assert drip(impatient, b"", b"") == b""
    assert drip(impatient, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ", b"x") == b""
    assert drip(impatient, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"").startswith(b"HTTP/1.1 200 ")
    head, _, body = drip(impatient, POST % b"/predict" + FORM + IMAGES, b"x").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body) == {"error": "the request was not here after 1 seconds"}
    assert drip(impatient, POST % b"/nowhere" + FORM, b"x").startswith(b"HTTP/1.1 404 ")
    assert answered(impatient, bundle)


def test_who_waits_for_a_place_too_long_is_told(impatient: Served, bundle: Path) -> None:
    answers: list[bytes] = []
    clients = [
        threading.Thread(target=lambda: answers.append(drip(impatient, POST % b"/predict" + FORM + IMAGES, b"x")))
        for _ in range(3)
    ]
    for client in clients:
        client.start()
    for client in clients:
        client.join(60)
    assert {answer[:13] for answer in answers} == {b"HTTP/1.1 408 ", b"HTTP/1.1 503 "}
    (refused, *_) = [answer for answer in answers if answer.startswith(b"HTTP/1.1 503 ")]
    assert b"retry-after: 1" in refused and b"1 other requests take longer than 1 seconds" in refused
    assert answered(impatient, bundle)


def connected() -> PunctualProtocol:
    """A connection of a pretended socket, whose client has no time at all."""
    config = uvicorn.Config(Mock(), http=PunctualProtocol, timeout_keep_alive=0, log_config=None, ws="none")
    config.load()
    found = PunctualProtocol(config, ServerState(), {}, asyncio.get_running_loop())
    found.connection_made(Mock(is_closing=lambda: False, get_extra_info=lambda _: None))
    return found


def test_a_client_that_takes_no_answer_is_let_go_and_one_that_computes_is_not() -> None:
    async def aborted(*steps: str) -> bool:
        found = connected()
        found.cycle = Mock(response_complete=False)
        found._stop_waiting_if_answering()
        for step in steps:
            getattr(found, step)()
        await asyncio.sleep(0.01)
        return bool(found.transport.abort.called)  # type: ignore[attr-defined]

    assert not asyncio.run(aborted())
    assert asyncio.run(aborted("pause_writing"))
    assert not asyncio.run(aborted("pause_writing", "resume_writing"))
    assert asyncio.run(aborted("on_response_complete"))

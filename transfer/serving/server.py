"""The server that answers on a socket until it is stopped, and waits for no client for ever."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from fastapi import FastAPI
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_MOST_CONNECTIONS = 256  # each may hold 64 kB that nobody has read yet
_SECONDS_TO_FINISH = 8  # containers are killed ten seconds after SIGTERM


class PunctualProtocol(H11Protocol):
    """HTTP/1.1 that ends a connection whose client takes longer than the keep-alive time.

    The client has that time to send a request's headers, and to take an answer. uvicorn's own begins with the first
    answer, and again with each byte. While a request is answered, the application's limits hold.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait_for_client()

    def handle_events(self) -> None:
        """Stop waiting when a request is handed to the application."""
        super().handle_events()
        self._stop_waiting_if_answering()

    def on_response_complete(self) -> None:
        """Wait until the answer is taken and the next request comes."""
        self._wait_for_client()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Wait until what has been written is taken."""
        super().pause_writing()
        self._wait_for_client()

    def resume_writing(self) -> None:
        """Stop waiting where an answer is under way."""
        super().resume_writing()
        self._stop_waiting_if_answering()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_client(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(self.timeout_keep_alive, self.transport.abort)

    def _stop_waiting_if_answering(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class AnswerWhenStopped:
    """ASGI middleware that answers 503 to a request which the end of the server cut short."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_and_know(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, send_and_know)
        except asyncio.CancelledError:
            if started or scope["type"] != "http":
                raise
            answer = JSONResponse({"error": "the server stops"}, 503, headers={"Connection": "close"})
            await answer(scope, receive, send)


def run_server(app: FastAPI, listening: socket.socket, max_seconds: int) -> None:
    """Answer until SIGINT or SIGTERM, finish what has been asked, and raise the signal again.

    Args:
        app: what answers.
        listening: a socket that listens.
        max_seconds: a connection may wait so long for its client.
    """
    config = uvicorn.Config(
        AnswerWhenStopped(app),
        http=PunctualProtocol,
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        ws="none",
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=max_seconds,
        timeout_graceful_shutdown=_SECONDS_TO_FINISH,
    )
    uvicorn.Server(config).run(sockets=[listening])

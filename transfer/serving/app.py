"""The HTTP interface: a page, POST /predict, GET /model and GET /healthz."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

import anyio
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException as AnyHTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from typing_extensions import TypedDict

from transfer.errors import UserError
from transfer.serving.health import Health, Outcome, is_healthy
from transfer.serving.limits import Limits
from transfer.serving.page import SecurityHeaders, read_page
from transfer.serving.service import Entry, Service
from transfer.serving.uploads import PART, read_uploads

_TOP_K = 5
# What FastAPI cannot see in `predict`, which reads its body itself to stop at the limits.
_PARTS = {"type": "array", "items": {"type": "string", "format": "binary"}}
_BODY = {"multipart/form-data": {"schema": {"type": "object", "required": [PART], "properties": {PART: _PARTS}}}}


class Refusal(TypedDict):
    """The body of every answer to a request that is not answered.

    Attributes:
        error: what is wrong, in one line.
    """

    error: str


_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "no form, or one with other parts"},
    408: {"model": Refusal, "description": "its body came too slowly"},
    413: {"model": Refusal, "description": "beyond a limit of GET /model"},
    415: {"model": Refusal, "description": "no multipart/form-data"},
    422: {"model": Refusal, "description": "`top_k` is out of range"},
    503: {"model": Refusal, "description": "too many requests at the same time, or the server stops"},
}


class ASCIIResponse(JSONResponse):
    """JSON whose characters beyond ASCII are escaped, for names that are no Unicode."""

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


def build_app(service: Service, health: Health, hosts: Sequence[str]) -> FastAPI:
    """Return the application.

    Args:
        service: what answers.
        health: the outcome of its golden test.
        hosts: names under which it may be asked; no other site's page then reaches it under its own. `*`: any.
    """
    app = FastAPI(
        title=service.bundle.folder.record.name,
        docs_url=None,  # these pages load their scripts from elsewhere
        redoc_url=None,
        default_response_class=ASCIIResponse,
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=False)
    app.add_middleware(SecurityHeaders)
    app.add_exception_handler(AnyHTTPException, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse)
    places = anyio.CapacityLimiter(service.limits.max_requests)
    threads = anyio.CapacityLimiter(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return read_page()

    @app.post("/predict", responses=_REFUSALS, openapi_extra={"requestBody": {"required": True, "content": _BODY}})
    async def predict(request: Request, top_k: int = _TOP_K) -> list[Entry]:
        num_classes = len(service.bundle.class_names)
        if not 1 <= top_k <= max(num_classes, _TOP_K):
            raise HTTPException(422, f"top_k={top_k} (allowed: 1 to {num_classes}, the number of classes)")
        async with _place(places, service.limits):
            uploads = await read_uploads(request, service.limits)
            return await anyio.to_thread.run_sync(service.predict, uploads, top_k, limiter=threads)

    @app.get("/model")
    async def model() -> dict[str, Any]:
        facts = asdict(service.bundle.folder.record)
        ours = {"limits": asdict(service.limits), "guarantees": asdict(service.guarantees)}
        return facts | {"format": service.bundle.format, **ours}

    @app.get("/healthz", responses={503: {"description": "the bundle answers otherwise here"}})
    async def healthz(now: bool = False) -> ASCIIResponse:
        outcome = await health.renewed() if now else health.outcome
        return ASCIIResponse(describe(outcome), 200 if is_healthy(outcome) else 503)

    return app


@asynccontextmanager
async def _place(places: anyio.CapacityLimiter, limits: Limits) -> AsyncGenerator[None, None]:
    """Wait until a request may be read: until then no more of it is in memory than its headers bring.

    Raises:
        HTTPException: 503 if others take all places for too long.
    """
    try:
        with anyio.fail_after(limits.max_seconds):
            await places.acquire()
    except TimeoutError:
        message = f"{limits.max_requests} other requests take longer than {limits.max_seconds} seconds: try again"
        raise HTTPException(503, message, headers={"Retry-After": "1", "Connection": "close"}) from None
    try:
        yield
    finally:
        places.release()


def describe(outcome: Outcome) -> dict[str, Any]:
    """Return what became of the golden test, in words and numbers."""
    if isinstance(outcome, UserError):
        return {"status": "failed", "error": str(outcome)}
    (answer,) = outcome.answers
    return {
        "status": "deviates" if outcome.deviates else "ok",
        "format": answer.format,
        "num_inputs": answer.num_inputs,
        "same_class": answer.same,
        "largest_difference": answer.difference if answer.difference < float("inf") else None,
        "pixels": outcome.pixels,
    }


async def _refuse(request: Request, error: Exception) -> ASCIIResponse:
    """Answer in one line what is wrong with a request."""
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        return ASCIIResponse({"error": f"{first['loc'][-1]}: {first['msg'].lower()}"}, 422)
    assert isinstance(error, AnyHTTPException)
    return ASCIIResponse({"error": error.detail}, error.status_code, headers=error.headers)

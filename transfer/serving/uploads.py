"""Reading the photos of a request while they come, no further than the limits allow."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

import anyio
from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from transfer.serving.limits import Limits

PART = "images"
_TOO_LARGE = 413


@dataclass(frozen=True)
class Upload:
    """A file of a request.

    Attributes:
        name: what the client calls it; nothing may trust it.
        encoded: its bytes.
    """

    name: str
    encoded: bytes


async def read_uploads(request: Request, limits: Limits) -> list[Upload]:
    """Return the files of a multipart request, in order; they stay in memory.

    Raises:
        HTTPException: 413 as soon as it is larger than the limits, 408 if it takes too long, 415 if it is of another
            type, 400 if it is not what it should be.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise HTTPException(415, f"send multipart/form-data, each photo in a part named {PART}")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limits.max_bytes:
        raise too_many_bytes(limits)
    try:
        with anyio.fail_after(limits.max_seconds):
            return await _read_form(request, limits)
    except TimeoutError:
        message = f"the request was not here after {limits.max_seconds} seconds"
        raise HTTPException(408, message, headers={"Connection": "close"}) from None


async def _read_form(request: Request, limits: Limits) -> list[Upload]:
    parser = MultiPartParser(request.headers, _bounded(request, limits), max_files=limits.max_files, max_fields=0)
    parser.spool_max_size = limits.max_bytes
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            message = f"more than {limits.max_files} photos in one request: send them in several"
            raise HTTPException(_TOO_LARGE, message) from None
        if error.message.startswith("Too many fields"):
            raise HTTPException(400, "a part without a file name: each part is a photo, with a name") from None
        raise HTTPException(400, error.message) from None
    except ClientDisconnect:
        raise HTTPException(400, "the connection ended before the request did") from None
    try:
        uploads = [await _upload(part, file) for part, file in form.multi_items()]
    finally:
        await form.close()
    if not uploads:
        raise HTTPException(400, f"no photo: send each in a part named {PART}")
    return uploads


async def _upload(part: str, file: UploadFile | str) -> Upload:
    assert isinstance(file, UploadFile)  # the parser refuses other parts
    if part != PART:
        raise HTTPException(400, f"a part is named {part!a} (allowed: {PART})")
    return Upload(file.filename or "", await file.read())


async def _bounded(request: Request, limits: Limits) -> AsyncGenerator[bytes, None]:
    """Yield the body as it comes, whatever length its header claims."""
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limits.max_bytes:
            raise too_many_bytes(limits)
        yield chunk


def too_many_bytes(limits: Limits) -> HTTPException:
    """Return the answer to a request with too long a body."""
    return HTTPException(_TOO_LARGE, f"more than {limits.max_bytes:,} bytes in one request")


def too_many_pixels(name: str, height: int, width: int, limits: Limits) -> HTTPException:
    """Return the answer to a request with too large a photo."""
    return HTTPException(
        _TOO_LARGE, f"{name!a}: {width} x {height} pixels are more than the {limits.max_pixels:,} that are read here"
    )

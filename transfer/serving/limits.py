"""What one request may ask for, and all of them together."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What requests may ask for.

    Attributes:
        max_bytes: bytes of one's body.
        max_files: photos in it.
        max_pixels: pixels of a photo.
        max_seconds: how long the service waits for a client: for a body, for the next request of a connection, for its
            answer to be taken. A request waits so long for its turn.
        max_requests: requests that are read and computed at the same time; the others wait unread.
    """

    max_bytes: int
    max_files: int
    max_pixels: int
    max_seconds: int
    max_requests: int

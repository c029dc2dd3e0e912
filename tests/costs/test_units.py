"""Bytes read and written."""

from __future__ import annotations

import pytest

from transfer.costs.units import format_bytes, parse_bytes
from transfer.errors import UserError


@pytest.mark.parametrize(
    ("text", "size"),
    [("16GiB", 16 * 2**30), (" 500 MB ", 500_000_000), ("1.5gib", 3 * 2**29), ("1e3kb", 10**6), ("7B", 7)],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_bytes(text, "memory") == size


@pytest.mark.parametrize(
    "text", ["", "16", "GiB", "16G", "-1GiB", "0GiB", "nanGiB", "1..5GiB", "16 GiB free", "1e999TB"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"`memory`=.*: give a number and a unit \(allowed: B, kB, MB, .*\), as 16GiB"):
        parse_bytes(text, "memory")


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (16 * 2**30, "16 GiB"), (1_234_567, "1.177 MiB")]
)
def test_a_size_is_written(size: int, text: str) -> None:
    assert format_bytes(size) == text

"""Ways to damage a file, the same in every run."""

from __future__ import annotations

import numpy as np

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 12345\n"
HTML = b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>nginx</body></html>\n"


def replacements() -> dict[str, bytes]:
    """Return contents that a download leaves in place of the file that was asked for."""
    noise = np.random.default_rng(0).integers(0, 256, 3000, dtype=np.uint8).tobytes()
    return {"empty": b"", "one byte": b"\x00", "zeros": bytes(3000), "noise": noise, "HTML": HTML, "LFS": LFS_POINTER}


def cuts(content: bytes, number: int) -> dict[str, bytes]:
    """Return a file cut short, at evenly spread places."""
    places = [len(content) * part // (number + 1) for part in range(1, number + 1)]
    return {f"cut at {place} of {len(content)}": content[:place] for place in places}


def flips(content: bytes, number: int, seed: int = 0) -> dict[str, bytes]:
    """Return a file with a single bit flipped, at random places."""
    rng = np.random.default_rng(seed)
    flipped = {}
    for place in sorted(rng.choice(len(content), min(number, len(content)), replace=False)):
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        flipped[f"flip in byte {place} of {len(content)}"] = bytes(changed)
    return flipped


def holes(content: bytes, number: int) -> dict[str, bytes]:
    """Return a file whose blocks were never written, as after a power cut: a tenth of it is zero."""
    size = max(len(content) // 10, 1)
    places = [len(content) * part // number for part in range(number)]
    return {f"zeros from {place}": content[:place] + bytes(size) + content[place + size :] for place in places}

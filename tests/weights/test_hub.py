"""The hub's own client against a hub on loopback: a mirror, its cache, what breaks off, and what is too short."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from datamodules.sheets.cifar import CIFAR10
from tests.datamodules.test_hub_datasets import save_split
from tests.support.hub_server import HubServer, serve

# Sixty images take less than a piece of a download: only smaller pieces show where it went on.
LOAD = """
import json, sys
sys.path.insert(0, "tests")
from huggingface_hub import constants
constants.DOWNLOAD_CHUNK_SIZE = 1000
from dataclasses import replace
from datamodules import build_datamodule
from tests.datamodules.test_hub_datasets import TinyCIFAR10
from tests.support.data import PREPROCESSING
from transfer.errors import UserError
for stream in {streams}:
    try:
        data = build_datamodule(
            TinyCIFAR10(), preprocessing=PREPROCESSING, num_workers={workers}, batch_size=4, stream=stream
        )
        data.setup()
        loaders = data.train_dataloader(), data.test_dataloader()
        images = sum(len(labels) for loader in loaders for _, labels in loader)
        print(json.dumps([data.dataset.split_sizes, images, data.dataset.fingerprint["test"]]))
    except UserError as error:
        print(json.dumps(str(error)))
"""
SIZES = {"train": 50, "val": 10, "test": 20}
REPOSITORY = CIFAR10.copies[0].id
CARD = """---
configs:
- config_name: plain_text
  data_files:
  - {split: train, path: plain_text/train-*}
  - {split: test, path: plain_text/test-*}
---
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hub")
    for split, count in {"train": 60, "test": 20}.items():
        labels = [index % 10 for index in range(count)]
        save_split(folder / REPOSITORY / "plain_text", split, labels, 10, columns=("img", "label"))
    (folder / REPOSITORY / "README.md").write_text(CARD)
    return folder


@pytest.fixture
def hub(repositories: Path) -> Iterator[HubServer]:
    with serve(repositories) as server:
        yield server


def load(hub: HubServer, home: Path, *streams: bool, workers: str = "0", **extra: str) -> list[object]:
    process = hub.run(LOAD.format(streams=streams or (False,), workers=workers), home, **extra)
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


def test_a_mirror_serves_and_its_cache_works_without_it(hub: HubServer, tmp_path: Path) -> None:
    (downloaded,) = load(hub, tmp_path, False)
    assert downloaded[:2] == [SIZES, 48 + 20] and hub.downloads() == ["", ""]
    hub.asked.clear()
    changed = f"TinyCIFAR10.copies = (replace(TinyCIFAR10.copies[0], revision={'f' * 40!r}),)\nfor stream"
    first, again = (LOAD.format(streams=streams, workers=0) for streams in ((False, True), (False,)))
    process = hub.run(first + again.replace("for stream", changed, 1), tmp_path, HF_HUB_OFFLINE="1")
    assert process.returncode == 0, process.stderr
    offline, streamed, refused = map(json.loads, process.stdout.splitlines())
    assert offline == downloaded and streamed[:2] == downloaded[:2] and hub.asked == []
    assert f"The cache has its revision {CIFAR10.copies[0].revision}, which is another one than ff" in refused


def test_a_stream_of_two_workers_survives_a_broken_connection_and_keeps_nothing(hub: HubServer, tmp_path: Path) -> None:
    hub.breaks = True
    (streamed,) = load(hub, tmp_path, True, workers="2")
    assert streamed[:2] == [SIZES, 48 + 20] and streamed[2].startswith("streamed-")
    assert all(asked.startswith("bytes=") for asked in hub.downloads())
    hub.asked.clear()
    (message,) = load(hub, tmp_path, True, HF_HUB_OFFLINE="1")
    assert "without `stream`, which keeps nothing" in message and hub.asked == []


def test_a_snapshot_is_enough_offline(hub: HubServer, repositories: Path, tmp_path: Path) -> None:
    cache = tmp_path / "hub" / f"datasets--{REPOSITORY.replace('/', '--')}"
    revision = CIFAR10.copies[0].revision
    shutil.copytree(repositories / REPOSITORY, cache / "snapshots" / revision)
    downloaded, streamed = load(hub, tmp_path, False, True, HF_HUB_OFFLINE="1")
    assert downloaded[:2] == streamed[:2] == [SIZES, 48 + 20] and hub.asked == []


def test_a_download_that_breaks_off_goes_on_where_it_stopped(hub: HubServer, tmp_path: Path) -> None:
    hub.breaks = True
    ((sizes, images, _),) = load(hub, tmp_path)
    assert (sizes, images) == (SIZES, 48 + 20)
    whole, rest, test = hub.downloads()
    assert whole == test == "" and int(rest.removeprefix("bytes=").rstrip("-")) > 0


def test_files_of_the_wrong_size_are_refused(hub: HubServer, tmp_path: Path) -> None:
    hub.short = True
    downloaded, streamed = load(hub, tmp_path, False, True)
    assert f"cannot get {REPOSITORY} from the hub (Consistency check failed: file should be of size" in downloaded
    assert downloaded.endswith("What was fetched whole is kept: try again.")
    assert streamed.startswith(f"{REPOSITORY} train: hf://") and "could not be read" in streamed


def test_without_a_network_it_fails_at_once(hub: HubServer, tmp_path: Path) -> None:
    timed = LOAD.replace("for stream", "import time; start = time.monotonic()\nfor stream", 1)
    code = timed.format(streams=(False, True), workers=0) + "print(time.monotonic() - start)"
    process = hub.run(code, tmp_path, HF_ENDPOINT="http://127.0.0.1:9")
    *messages, seconds = process.stdout.splitlines()
    assert len(messages) == 2 and all("Connection refused" in message for message in messages)
    assert float(seconds) < 10  # the libraries alone try for 24 s, and for each dataset

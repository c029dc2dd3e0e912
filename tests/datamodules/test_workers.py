"""Data workers and signals: only the main process ends them, and they do not outlive it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runs import ROOT, environment

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux")
# A main process that reads a batch of each worker and then none, so that they stand before a full pipe.
CODE = """
import sys
import numpy as np
from torch.utils.data import DataLoader
from datamodules.loading.workers import start_worker

class Images:
    def __len__(self):
        return 10_000
    def __getitem__(self, index):
        return np.zeros((200, 200, 3), np.uint8)

if __name__ == "__main__":
    loader = DataLoader(Images(), 4, num_workers=2, worker_init_fn=start_worker, collate_fn=np.stack)
    batches = iter(loader)
    next(batches), next(batches)
    print("ready", flush=True)
    sys.stdin.readline()
    print(sum(len(batch) for batch in batches))
"""


@pytest.fixture
def main_process() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", CODE]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def children(process: subprocess.Popen[str]) -> list[int]:
    return [
        int(word)
        for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text(encoding="utf-8").split()
    ]


def alive(pid: int) -> bool:
    """Whether it still runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_go_on_after_signals_to_the_whole_job(main_process: subprocess.Popen[str]) -> None:
    workers = children(main_process)
    for number in (signal.SIGINT, signal.SIGTERM):
        for worker in workers:
            os.kill(worker, number)
    time.sleep(0.5)
    assert len(workers) == 2 and all(map(alive, workers))
    out, _ = main_process.communicate("go on\n", timeout=120)
    assert out == "9992\n" and main_process.returncode == 0
    assert not any(map(alive, workers))


def test_workers_do_not_outlive_a_killed_main_process(main_process: subprocess.Popen[str]) -> None:
    workers = children(main_process)
    assert len(workers) == 2 and all(map(alive, workers))
    main_process.kill()
    main_process.wait()
    end = time.monotonic() + 60
    while any(map(alive, workers)):
        assert time.monotonic() < end, "a worker is left"
        time.sleep(0.05)

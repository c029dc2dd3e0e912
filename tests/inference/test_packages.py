"""Libraries that compute leave the process as they found it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = """
import faulthandler, gc, os, signal
import torch
from torch import nn
from transfer.inference.openvino_engine import OpenVINOEngine

faulthandler.enable()  # it has a signal stack of its own
network, images = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()).eval(), torch.rand(4, 3, 32, 32)
engines = [OpenVINOEngine(name, network, images) for name in ("openvino", "openvino-int8", "openvino")]
while engines:
    del engines[0]
    gc.collect()
signal.signal(signal.SIGTERM, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGTERM)
print("alive")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="OpenVINO changes the signal stack on Linux alone")
def test_a_signal_is_handled_after_openvino_is_gone() -> None:
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, check=False)
    assert process.returncode != -signal.SIGSEGV
    assert (process.returncode, process.stdout) == (0, "handled\nalive\n"), process.stderr

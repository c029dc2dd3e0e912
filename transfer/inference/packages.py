"""Packages that compute networks: imported with their telemetry off, set up for cores that others use too."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transfer.errors import BadValue, MissingData

CHUNK = 4  # images that are computed at a time: they stay in the cores' caches


def load_package(purpose: str, package: str, extra: str | None) -> Any:
    """Return a package that reports nothing to its vendor; OpenVINO and ONNX Runtime would report even an import.

    Args:
        purpose: the argument that asks for it, such as `engine`=openvino in backticks.
        package: its name.
        extra: the extra of this project that installs it.

    Raises:
        MissingData: it is not installed, or cannot be imported.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: importing it fails
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingData(f"{purpose}: {error}; run: pip install 'efficientnet-transfer[{extra}]'") from None


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Put back the stack that this thread's signal handlers run on when the block ends.

    OpenVINO's plugin for CPUs gives the thread that loads it another one, and frees that with itself, whatever thread
    uses it then: the next signal, such as Ctrl-C or the end of a child, would kill the process without a word.
    """
    if sys.platform != "linux":
        yield
        return
    libc, stack = ctypes.CDLL(None), ctypes.create_string_buffer(64)  # stack_t has 24 bytes
    libc.sigaltstack(None, stack)
    try:
        yield
    finally:
        libc.sigaltstack(stack, None)


def refusal(purpose: str, network: object, error: Exception) -> BadValue:
    """Return the error for a network that a library cannot compute, in one line."""
    return BadValue(f"{purpose}: {type(network).__name__} cannot be converted: {' '.join(str(error).split())[:300]}")


def last_words(error: Exception) -> str:
    """Return the end of a library's error in one line; it begins with where in the library's source it arose."""
    text = " ".join(str(error).split())
    return text if len(text) <= 200 else f"... {text[-200:]}"


def num_threads() -> int:
    """Return how many threads compute: PyTorch's number where it is loaded, or else OMP_NUM_THREADS, or every core."""
    if torch := sys.modules.get("torch"):
        return int(torch.get_num_threads())
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(wanted) if wanted.isdecimal() and int(wanted) > 0 else cores


def onnx_session(ort: Any, model: bytes | str) -> Any:
    """Return ONNX Runtime's session on the CPU for a model or the path of one."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are shared with loaders
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def openvino_settings(precision: str) -> dict[str, Any]:
    """Return settings of OpenVINO's CPU plugin: a stream for each thread; streams do not wait for one another."""
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": num_threads(),
        "NUM_STREAMS": num_threads(),
        "ENABLE_CPU_PINNING": False,  # the cores are shared with loaders and other runs
    }

"""The measured peak of a training step or of inference, in a process of its own."""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch
from torch import nn

from transfer.costs.bare_steps import forward_pass, random_batch, synchronize, training_step
from transfer.costs.live_bytes import Precision
from transfer.errors import BadValue

PROCESS_STATUS = Path("/proc/self/status")
# glibc's malloc.h. Setting the threshold also stops malloc from raising it.
_M_MMAP_THRESHOLD, _THRESHOLD = -3, 64 * 1024
_STEPS = 2  # from the second on there is momentum, and gradients of the step before


def measure_peak(
    build: Callable[[], nn.Module],
    image_size: int,
    batch_size: int,
    *,
    training: bool = True,
    precision: Precision = "32-true",
    on_gpu: bool = False,
    threads: int | None = None,
    malloc: Callable[[], object] | None = None,
) -> int:
    """Measure the bytes at the peak of a training step (SGD with momentum) or of inference, everything included.

    On a GPU, the most that PyTorch had allocated. On a CPU, the largest resident set of the process less what it had
    before the network was built and after a small network had loaded the libraries. There malloc gives what is freed
    back at once, so that memory counts while it is in use, as on a GPU; but for `malloc`.

    Args:
        build: builds the network; it is pickled, which `functools.partial(build_classifier, "b0", 1000)` can be.
        image_size: side of the images, in pixels.
        batch_size: number of images.
        training: whether to measure a training step; otherwise inference.
        precision: precision of the computation.
        on_gpu: whether to measure on a GPU.
        threads: number of the processor's threads; None takes PyTorch's number here.
        malloc: sets up malloc in the process in another way; it is pickled. Kept blocks may not fit later requests, so
            the process is larger than what it uses, and faster. It has no effect on a GPU.

    Raises:
        UserError: the system does not tell the memory of a process, or killed it.
    """
    if not on_gpu and not PROCESS_STATUS.is_file():
        raise BadValue(f"memory: only Linux tells that of a process ({PROCESS_STATUS}), and no GPU is asked for")
    threads = threads or torch.get_num_threads()
    arguments = (build, image_size, batch_size, training, precision, on_gpu, malloc or give_back_freed, threads)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_measure, *arguments).result()
        except BrokenProcessPool:
            raise BadValue(
                f"memory: the process with {batch_size} images of {image_size} px was killed, most likely for want of"
                " memory: give a smaller batch"
            ) from None


def resident_bytes(field: str) -> int:
    """Return the memory of this process: `VmRSS`, now; `VmHWM`, the most so far.

    getrusage's ru_maxrss will not do: through fork and exec it begins with the parent's.
    """
    for line in PROCESS_STATUS.read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise ValueError(f"{PROCESS_STATUS} has no {field}")


def give_back_freed() -> None:
    """Let malloc give freed blocks back to the kernel at once; other C libraries than glibc do anyway."""
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _THRESHOLD)


def _measure(
    build: Callable[[], nn.Module],
    image_size: int,
    batch_size: int,
    training: bool,
    precision: Precision,
    on_gpu: bool,
    malloc: Callable[[], object],
    threads: int,
) -> int:
    device = torch.device("cuda" if on_gpu else "cpu")
    torch.set_num_threads(threads)
    malloc()
    small = nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.SiLU(), nn.Conv2d(16, 16, 3, 2, groups=16), nn.Conv2d(16, 32, 1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )
    _run(small, 32, 2, training, precision, device)
    del small
    if on_gpu:
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        before = resident_bytes("VmRSS")
        with contextlib.suppress(OSError):  # forbidden in some containers; imports have no higher peak, mostly
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    _run(build(), image_size, batch_size, training, precision, device)
    return (torch.cuda.max_memory_allocated() if on_gpu else resident_bytes("VmHWM")) - before


def _run(
    network: nn.Module, image_size: int, batch_size: int, training: bool, precision: Precision, device: torch.device
) -> None:
    """Run steps on one batch."""
    if training:
        step = training_step(network, device, precision=precision)
    else:
        forward = forward_pass(network, device, precision=precision)

        def step(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
            forward(batch[0])

    batch = random_batch(image_size, batch_size, device)
    for _ in range(_STEPS):
        step(batch)
    synchronize(device)

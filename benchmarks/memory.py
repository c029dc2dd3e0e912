"""Peak memory and seconds of a training step without and with gradient checkpointing."""

from __future__ import annotations

import multiprocessing
import time
from typing import TYPE_CHECKING, Any

from transfer.errors import UserError

if TYPE_CHECKING:
    pass


def benchmark_memory(
    backbone: str, image_size: int, batch_size: int, steps: int = 1, rounds: int = 2
) -> dict[str, Any]:
    """Return peak memory and seconds of a training step without and with gradient checkpointing, in fresh processes.

    `peak_bytes` is the smallest peak of the processes, and `reduction_percent` compares these; see `memory_case` for
    what they count. `static_bytes` is the part that checkpointing cannot change: parameters, buffers, gradients and
    momentum. It is included in a GPU's peak but not in the growth on a CPU.

    Args:
        backbone: name of the backbone.
        image_size: side of the images, in pixels.
        batch_size: images per step.
        steps: number of timed steps, after the one whose memory is measured.
        rounds: number of processes per case; the cases alternate.
    """
    import torch

    from transfer.costs.peak_memory import PROCESS_STATUS
    from transfer.networks.registry import get_variant

    variant = get_variant(backbone)
    if not torch.cuda.is_available() and not PROCESS_STATUS.is_file():
        raise UserError(f"memory: there is no GPU, and only Linux reports the memory of a process ({PROCESS_STATUS})")
    cases = {"plain": False, "grad_checkpointing": True}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, checkpointing in cases.items():
            arguments = (variant.name, image_size, batch_size, checkpointing, steps)
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                runs[name].append(pool.apply(memory_case, arguments))
    figures: dict[str, Any] = {"backbone": variant.name, "image_size": image_size, "batch_size": batch_size}
    figures["threads"] = torch.get_num_threads()
    figures["counted"] = "allocated on the GPU" if torch.cuda.is_available() else "growth of the resident set"
    figures["static_bytes"] = runs["plain"][0]["static_bytes"]
    for name, results in runs.items():
        figures[name] = {
            "peak_bytes": min(result["peak_bytes"] for result in results),
            "peak_bytes_of_runs": [result["peak_bytes"] for result in results],
            "seconds_per_step": round(min(result["seconds_per_step"] for result in results), 4),
        }
    plain, less = figures["plain"], figures["grad_checkpointing"]
    figures["reduction_percent"] = round(100 * (1 - less["peak_bytes"] / plain["peak_bytes"]), 1)
    figures["time_ratio"] = round(less["seconds_per_step"] / plain["seconds_per_step"], 3)
    return figures


def memory_case(
    backbone: str, image_size: int, batch_size: int, grad_checkpointing: bool, steps: int
) -> dict[str, float]:
    """Measure one case of `benchmark_memory` in the calling process.

    A first step with 2 images at 32 px loads the libraries and allocates gradients and momentum. On a GPU, `peak_bytes`
    is PyTorch's peak allocation during the next step, in bf16 autocast. On a CPU, it is the growth of the process's
    peak resident set over its size just before that step, in float32: activations, their gradients, the libraries'
    work space, and memory that malloc could not reuse. malloc returns large blocks to the kernel at once, so these
    count only while they are in use; small ones stay in its pools and continue to count.
    """
    import torch

    from transfer.costs.bare_steps import random_batch, synchronize, training_step
    from transfer.costs.peak_memory import resident_bytes
    from transfer.weights.build import build_classifier

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build_classifier(backbone, 10, grad_checkpointing=grad_checkpointing)
    step = training_step(model, device)
    step(random_batch(32, 2, device))
    batch = random_batch(image_size, batch_size, device)
    trained = sum(p.nbytes for p in model.parameters())
    static = 3 * trained + sum(b.nbytes for b in model.buffers())

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = 0 if device.type == "cuda" else resident_bytes("VmRSS")
    step(batch)
    synchronize(device)
    after = torch.cuda.max_memory_allocated() if device.type == "cuda" else resident_bytes("VmHWM")

    started = time.perf_counter()
    for _ in range(steps):
        step(batch)
    synchronize(device)
    seconds = (time.perf_counter() - started) / steps
    return {"peak_bytes": after - before, "static_bytes": static, "seconds_per_step": seconds}

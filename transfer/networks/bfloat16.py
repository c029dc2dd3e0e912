"""Where bfloat16 is computed natively, and where it trains faster than float32."""

from __future__ import annotations

import platform

import torch

# Side in pixels from which bf16 autocast is known to train faster than float32 on a CPU with AVX-512 BF16: 1.09 to 1.26
# times at 64 px, 1.45 to 1.91 times at 224 px for five networks (benchmarks/precision_cpu.json).
LEAST_BF16_SIZE = 64


def computes_bf16(device: torch.device) -> bool:
    """Return whether a device computes bfloat16 natively: a GPU that does, or a CPU with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if platform.machine() not in ("x86_64", "AMD64"):
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def trains_faster_in_bf16(device: torch.device, image_size: int) -> bool:
    """Return whether training steps are faster in bf16-mixed than in 32-true: what the precision `auto` goes by.

    Args:
        device: a GPU or the CPU.
        image_size: side of the training images, in pixels.
    """
    return computes_bf16(device) and (device.type == "cuda" or image_size >= LEAST_BF16_SIZE)

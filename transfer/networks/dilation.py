"""Finer maps from the same weights: the last strides of a backbone become dilations."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from transfer.networks.rows import StageRow


def replace_stride_with_dilation(
    stages: Iterable[nn.Module], rows: Sequence[StageRow], stem_stride: int, output_stride: int
) -> None:
    """Take every stride beyond `output_stride` out of the stages and spread the kernels behind it by as much.

    A kernel then covers the same pixels of the image as before, so that pretrained weights keep their meaning. The
    convolution that had the stride keeps the dilation of the stage before, as in torchvision's
    `replace_stride_with_dilation` and timm's `output_stride`. Without squeeze-excitation, whose means are over all
    cells, the strided network's map is exactly a subset of the dilated one's cells.

    Args:
        stages: blocks of each stage, changed in place.
        rows: their rows, which say the strides.
        stem_stride: stride of what precedes the stages.
        output_stride: stride of the last stage's map.
    """
    stride, dilation = stem_stride, 1
    for stage, row in zip(stages, rows, strict=True):
        block_dilation = dilation
        if stride * row.stride > output_stride:
            dilation *= row.stride
        else:
            stride *= row.stride
        if dilation == 1:
            continue
        for block in stage.children():
            for module in block.modules():
                if isinstance(module, nn.Conv2d):
                    _dilate(module, block_dilation)
            block_dilation = dilation


def _dilate(conv: nn.Conv2d, dilation: int) -> None:
    """Give a convolution stride 1 and a dilation; its padding grows with the kernel's reach."""
    conv.stride = (1, 1)
    conv.dilation = (dilation, dilation)
    if conv.padding != (0, 0):
        height, width = conv.kernel_size
        conv.padding = (dilation * (height // 2), dilation * (width // 2))

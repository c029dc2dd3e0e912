"""The network that every format holds: from pixels to logits and features."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from transfer.images.prepare import scale_and_shift
from transfer.inference.folding import folded
from transfer.inference.packages import CHUNK
from transfer.networks.classifier import Classifier
from transfer.networks.ensemble import Ensemble
from transfer.networks.layers import SamePadConv2d
from transfer.preprocessing import Preprocessing


class PixelNetwork(nn.Module):
    """A network in eval mode that takes pixels: normalisation inside, BatchNorm folded. Its arithmetic is float32.

    Args:
        classifier: a classifier or several; it stays as it is.
        preprocessing: see `transfer.images.prepare.normalized`.

    Shape:
        uint8 (N, S, S, C) -> logits (N, K), pooled features (N, F).
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, classifier: Classifier | Ensemble, preprocessing: Preprocessing) -> None:
        super().__init__()
        scale, shift = scale_and_shift(preprocessing)
        self.register_buffer("scale", torch.from_numpy(scale))
        self.register_buffer("shift", torch.from_numpy(shift))
        size, channels = preprocessing.image_size, len(preprocessing.mean)
        generator = torch.Generator().manual_seed(0)
        self.examples = torch.randint(256, (CHUNK, size, size, channels), generator=generator, dtype=torch.uint8)
        copy = folded(classifier, self._normalized(self.examples))
        assert isinstance(copy, Classifier | Ensemble)
        self.classifier = copy
        self._fix_padding()
        for tensor in (*self.parameters(), *self.buffers()):  # a layout in memory would be written too
            tensor.data = tensor.clone(memory_format=torch.contiguous_format)
        for module in self.modules():
            if isinstance(module, nn.Dropout):  # its rate is a setting of the training, and would be written too
                module.p = 0.0
        self.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return self.classifier.forward_with_features(self._normalized(pixels))

    @torch.no_grad()
    def _fix_padding(self) -> None:
        """Let convolutions pad as for images of this size, so that exports compute no shapes."""

        def note(conv: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(conv, SamePadConv2d)
            conv.static_size = conv.static_size or inputs[0].shape[-1]

        convs = [module for module in self.modules() if isinstance(module, SamePadConv2d)]
        handles = [conv.register_forward_pre_hook(note) for conv in convs]
        self(self.examples[:1])
        for handle in handles:
            handle.remove()

    def _normalized(self, pixels: Tensor) -> Tensor:
        return (pixels.float() * self.scale + self.shift).permute(0, 3, 1, 2)

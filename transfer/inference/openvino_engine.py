"""OpenVINO, Intel's library for CPUs of every make: float32, bfloat16, or 8 bits by NNCF.

Images are computed four at a time in as many streams as torch has threads: four images stay in a core's cache, and
streams do not wait for one another after each layer.
"""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from transfer.inference.folding import folded
from transfer.inference.names import ENGINES
from transfer.inference.packages import CHUNK, load_package, openvino_settings, refusal, signal_stack_kept

_NUM_FLOAT32 = 3  # convolutions: the stem and the first block of most networks


class OpenVINOEngine:
    """A network converted for OpenVINO's CPU plugin. (N, C, H, W) -> its outputs, float32.

    Args:
        name: `openvino`, `openvino-bf16` or `openvino-int8`.
        network: the network, on the CPU; it stays as it is.
        examples: images as the network takes them, all of one size. They calibrate the ranges of `openvino-int8`.

    Raises:
        MissingData: OpenVINO, or NNCF for 8 bits, is not installed.
        BadValue: OpenVINO cannot convert the network, or not for this processor.
    """

    def __init__(self, name: str, network: nn.Module, examples: Tensor) -> None:
        self.name, purpose, extra = name, f"`engine`={name}", ENGINES[name].extra
        ov = load_package(purpose, "openvino", extra)
        chunks = [_padded(chunk) for chunk in torch.split(examples, CHUNK)]
        settings = openvino_settings("bf16" if name == "openvino-bf16" else "f32")
        try:
            model = convert(folded(network, examples), chunks[0])
            model.reshape(list(chunks[0].shape))
            if name == "openvino-int8":
                calibration = [chunk.contiguous().numpy() for chunk in chunks]
                model = quantize(load_package(purpose, "nncf", extra), model, calibration)
            layout = ov.preprocess.PrePostProcessor(model)
            layout.input().tensor().set_layout(ov.Layout("NHWC"))  # channels_last: read where it lies
            layout.input().model().set_layout(ov.Layout("NCHW"))
            with signal_stack_kept():
                compiled = ov.Core().compile_model(layout.build(), "CPU", settings)
        except (RuntimeError, ov.frontend.OpConversionFailure, ov.frontend.GeneralFailure) as error:
            raise refusal(purpose, network, error) from error
        self._shape = tuple(compiled.output(0).shape)[1:]
        self._queue = ov.AsyncInferQueue(compiled, settings["NUM_STREAMS"])

    def __call__(self, images: Tensor) -> Tensor:
        outputs = np.empty((len(images), *self._shape), np.float32)  # NumPy's: a stream is outside of inference mode

        def keep(request: Any, start: int) -> None:
            target = outputs[start : start + CHUNK]
            target[:] = request.get_output_tensor().data[: len(target)]

        self._queue.set_callback(keep)
        # A stream reads them where they lie, and keeps none of them alive.
        chunks = [_padded(chunk).permute(0, 2, 3, 1).contiguous().numpy() for chunk in torch.split(images, CHUNK)]
        for number, pixels in enumerate(chunks):
            self._queue.start_async([pixels], number * CHUNK, share_inputs=True)
        self._queue.wait_all()
        return torch.from_numpy(outputs)


def _padded(chunk: Tensor) -> Tensor:
    """Return a whole chunk, the last image repeated."""
    missing = CHUNK - len(chunk)
    return chunk if missing == 0 else torch.cat([chunk, chunk[-1:].expand(missing, -1, -1, -1)])


def convert(network: nn.Module, images: Tensor) -> Any:
    """Return a network as OpenVINO's model, traced on images.

    Raises:
        RuntimeError, openvino.frontend.OpConversionFailure, openvino.frontend.GeneralFailure: it cannot be converted.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, and says which values become constants
        traced = torch.jit.trace(network, images, check_trace=False)  # type: ignore[no-untyped-call]
    decoder = TorchScriptPythonDecoder(traced, example_input=(images,))  # it must live until the conversion ends
    frontend = FrontEndManager().load_by_framework("pytorch")
    return frontend.convert(frontend.load(decoder))


def quantize(nncf: Any, model: Any, chunks: list[NDArray[Any]]) -> Any:
    """Return OpenVINO's model in 8 bits, the ranges of its activations taken from inputs.

    The first three convolutions stay float32: rounding them changes the logits more than rounding all others. These
    have all of 8 bits: NNCF would leave the first one 7, as sums of products can overflow on processors without VNNI.
    """
    nncf.set_log_level(logging.ERROR)
    with signal_stack_kept(), redirect_stdout(io.StringIO()):  # progress bars
        return nncf.quantize(
            model,
            nncf.Dataset(chunks),
            subset_size=len(chunks),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=_first_convolutions(model)),
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.DISABLE),
        )


def _first_convolutions(model: Any) -> list[str]:
    """Return the names of the convolutions with fewer than `_NUM_FLOAT32` others before them."""
    depths: dict[str, int] = {}
    found = []
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        before = max((depths[value.get_node().get_friendly_name()] for value in node.input_values()), default=0)
        is_conv = node.get_type_name() in ("Convolution", "GroupConvolution")
        depths[name] = before + is_conv
        if is_conv and before < _NUM_FLOAT32:
            found.append(name)
    return found


def compress_weights(nncf: Any, model: Any) -> Any:
    """Return OpenVINO's model with its weights in 8 bits; its arithmetic stays float32."""
    nncf.set_log_level(logging.ERROR)
    with signal_stack_kept(), redirect_stdout(io.StringIO()):
        return nncf.compress_weights(model)

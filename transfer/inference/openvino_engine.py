"""OpenVINO, Intel's library for CPUs of every make: float32, bfloat16, or 8 bits by NNCF.

Images are computed four at a time in as many streams as torch has threads: four images stay in a core's cache, and
streams do not wait for one another after each layer.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transfer.inference.folding import folded
from transfer.inference.packages import CHUNK, load_package, refusal


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
        ov = load_quietly(name, "openvino")
        self.name = name
        chunks = [_padded(chunk) for chunk in torch.split(examples, CHUNK)]
        streams = torch.get_num_threads()
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if name == "openvino-bf16" else "f32",
            "INFERENCE_NUM_THREADS": streams,
            "NUM_STREAMS": streams,
            "ENABLE_CPU_PINNING": False,  # the cores are shared with loaders and other runs
        }
        try:
            model = _convert(folded(network, examples), chunks[0])
            if name == "openvino-int8":
                model = _quantize(load_quietly(name, "nncf"), model, chunks)
            layout = ov.preprocess.PrePostProcessor(model)
            layout.input().tensor().set_layout(ov.Layout("NHWC"))  # channels_last: read where it lies
            layout.input().model().set_layout(ov.Layout("NCHW"))
            compiled = ov.Core().compile_model(layout.build(), "CPU", settings)
        except (RuntimeError, ov.frontend.OpConversionFailure, ov.frontend.GeneralFailure) as error:
            raise refusal(name, network, error) from error
        self._shape = tuple(compiled.output(0).shape)[1:]
        self._queue = ov.AsyncInferQueue(compiled, streams)

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


def load_quietly(engine: str, package: str) -> Any:
    """Import a package of OpenVINO's without its telemetry, which reports even an import to the vendor."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: importing it fails
    return load_package(engine, package)


def _padded(chunk: Tensor) -> Tensor:
    """Return a whole chunk, the last image repeated."""
    missing = CHUNK - len(chunk)
    return chunk if missing == 0 else torch.cat([chunk, chunk[-1:].expand(missing, -1, -1, -1)])


def _convert(network: nn.Module, images: Tensor) -> Any:
    """Return the network as OpenVINO's model for images of this shape."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated, and says which values become constants
        traced = torch.jit.trace(network, images, check_trace=False)  # type: ignore[no-untyped-call]
    decoder = TorchScriptPythonDecoder(traced, example_input=(images,))  # it must live until the conversion ends
    frontend = FrontEndManager().load_by_framework("pytorch")
    model = frontend.convert(frontend.load(decoder))
    model.reshape(list(images.shape))
    return model


def _quantize(nncf: Any, model: Any, chunks: list[Tensor]) -> Any:
    """Return the model in 8 bits, the ranges of its activations taken from these images."""
    nncf.set_log_level(logging.ERROR)
    calibration = nncf.Dataset([chunk.contiguous().numpy() for chunk in chunks])
    with redirect_stdout(io.StringIO()):  # progress bars
        return nncf.quantize(model, calibration, subset_size=len(chunks), preset=nncf.QuantizationPreset.MIXED)

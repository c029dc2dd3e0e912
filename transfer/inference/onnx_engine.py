"""ONNX Runtime on the CPU, in float32. Images are computed four at a time: they stay in the cores' caches."""

from __future__ import annotations

import io
import warnings

import torch
from torch import Tensor, nn

from transfer.inference.folding import folded
from transfer.inference.packages import CHUNK, load_package, refusal


class ONNXEngine:
    """A network exported to ONNX. (N, C, H, W) -> its outputs, float32.

    Args:
        name: `onnxruntime`.
        network: the network, on the CPU; it stays as it is.
        examples: images as the network takes them, all of one size.

    Raises:
        MissingData: ONNX Runtime, or onnx for the export, is not installed.
        BadValue: the network cannot be exported.
    """

    def __init__(self, name: str, network: nn.Module, examples: Tensor) -> None:
        ort = load_package(name, "onnxruntime")
        load_package(name, "onnx")
        ort.disable_telemetry_events()
        self.name = name
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # the cores are shared with loaders
        try:
            model = _export(folded(network, examples), examples[:2])
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise refusal(name, network, error) from error
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, images: Tensor) -> Tensor:
        chunks = [chunk.contiguous().numpy() for chunk in torch.split(images, CHUNK)]
        return torch.cat([torch.from_numpy(self._session.run(None, {"images": chunk})[0]) for chunk in chunks])


def _export(network: nn.Module, images: Tensor) -> bytes:
    """Return the network as ONNX, for any number of images of this size."""
    model, batch = io.BytesIO(), {0: "N"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated; the new exporter takes ten times as long
        torch.onnx.export(
            network,
            (images,),
            model,  # type: ignore[arg-type]  # a file object works too
            dynamo=False,
            input_names=["images"],
            output_names=["outputs"],
            dynamic_axes={"images": batch, "outputs": batch},
        )
    return model.getvalue()

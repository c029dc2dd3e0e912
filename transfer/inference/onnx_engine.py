"""ONNX Runtime on the CPU, in float32. Images are computed four at a time: they stay in the cores' caches."""

from __future__ import annotations

import io
import warnings

import torch
from torch import Tensor, nn

from transfer.inference.folding import folded
from transfer.inference.names import ENGINES
from transfer.inference.packages import CHUNK, load_package, onnx_session, refusal


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
        self.name, purpose = name, f"`engine`={name}"
        ort, _ = (load_package(purpose, package, ENGINES[name].extra) for package in ("onnxruntime", "onnx"))
        try:
            model = export_onnx(folded(network, examples), examples[:2], "images", ["outputs"])
        except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
            raise refusal(purpose, network, error) from error
        self._session = onnx_session(ort, model)

    def __call__(self, images: Tensor) -> Tensor:
        chunks = [chunk.contiguous().numpy() for chunk in torch.split(images, CHUNK)]
        return torch.cat([torch.from_numpy(self._session.run(None, {"images": chunk})[0]) for chunk in chunks])


def export_onnx(
    network: nn.Module, images: Tensor, input_name: str, output_names: list[str], opset: int | None = None
) -> bytes:
    """Return a network as ONNX, for any number of images of this size.

    Raises:
        RuntimeError, torch.onnx.errors.OnnxExporterError: it cannot be exported.
    """
    model = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing is deprecated; the new exporter takes ten times as long
        torch.onnx.export(
            network,
            (images,),
            model,  # type: ignore[arg-type]  # a file object works too
            dynamo=False,
            input_names=[input_name],
            output_names=output_names,
            opset_version=opset,
            dynamic_axes={name: {0: "N"} for name in (input_name, *output_names)},
        )
    return model.getvalue()

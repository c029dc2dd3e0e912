"""Write the formats `onnx` and `onnx-int8`."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from transfer.bundle.eight_bits import parts_in_8_bits
from transfer.bundle.formats import FormatRow
from transfer.bundle.network import PixelNetwork
from transfer.bundle.onnx_format import IMAGES, OUTPUTS
from transfer.bundle.onnx_graph import OPSET, Graph, Value
from transfer.bundle.onnx_preprocessing import add_preprocessing
from transfer.inference.onnx_engine import export_onnx
from transfer.inference.packages import CHUNK, load_package, refusal
from transfer.preprocessing import Preprocessing

# At most so many classes are in `top_probabilities` and `top_classes`.
_TOP = 5


def write_onnx(
    row: FormatRow,
    network: PixelNetwork,
    preprocessing: Preprocessing,
    folder: Path,
    temperature: float,
    multilabel: bool,
    calibration_pixels: NDArray[np.uint8] | None,
) -> None:
    """Write the file of a format; see `transfer.bundle.formats.write_format`.

    Raises:
        BadValue: the network cannot be exported.
    """
    try:
        exported = onnx.load_from_string(
            export_onnx(network, network.examples, "pixels", ["logits", "features"], OPSET)
        )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        raise refusal(f"`format`={row.name}", network.classifier, error) from error
    if row.name == "onnx-int8":
        if parts_in_8_bits(network) == "weights":
            _compress_weights(exported)
        else:
            assert calibration_pixels is not None
            exported = _quantized(exported, calibration_pixels)
    model = _completed(exported, preprocessing, temperature, multilabel)
    onnx.checker.check_model(model, full_check=True)
    (folder / row.files[0]).write_bytes(model.SerializeToString(deterministic=True))


def _quantized(network: ModelProto, pixels: NDArray[np.uint8]) -> ModelProto:
    """Return the network in 8 bits, the ranges of its activations taken from pixels; the normalisation stays float32.

    Processors without VNNI (or dot products on ARM) add up products in 16 bits, which can overflow: their logits may
    differ from those of others. Weights of 7 bits could not, but answer worse.
    """
    quantization = load_package("`format`=onnx-int8", "onnxruntime.quantization", "onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        quantization.quant_pre_process(network, path, skip_symbolic_shape=True)
        nodes = onnx.load(path).graph.node
        kinds = [node.op_type for node in nodes]
        quantization.quantize_static(
            path,
            path,
            _Batches(pixels),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            nodes_to_exclude=[node.name for node in nodes[: kinds.index("Conv")]],
        )
        return onnx.load(path)


def _compress_weights(network: ModelProto) -> None:
    """Store weights as integers from 0 to 255, a range for each output; runtimes that open it make float32 of them."""
    nodes, tensors = network.graph.node, network.graph.initializer
    weights = {node.input[1] for node in nodes if node.op_type in ("Conv", "Gemm", "MatMul")}
    graph = Graph("weights")
    for tensor in [tensor for tensor in tensors if tensor.name in weights]:
        array = numpy_helper.to_array(tensor)
        others = tuple(range(1, array.ndim))
        low, high = array.min(others, keepdims=True), array.max(others, keepdims=True)
        step = np.maximum((high - low) / 255, np.finfo(np.float32).tiny)
        integers = graph.constant(np.round((array - low) / step).astype(np.uint8))
        floats = integers.cast(TensorProto.FLOAT).op("Mul", graph.constant(step)).op("Add", graph.constant(low))
        graph.rename(floats, tensor.name)
        tensors.remove(tensor)
    graph.nodes.extend(nodes)
    del nodes[:]
    nodes.extend(graph.nodes)


class _Batches:
    """Batches of pixels, as ONNX Runtime asks for them."""

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        self._chunks = iter(np.array_split(pixels, -(-len(pixels) // CHUNK)))

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        chunk = next(self._chunks, None)
        return None if chunk is None else {"pixels": chunk}


def _completed(network: ModelProto, preprocessing: Preprocessing, temperature: float, multilabel: bool) -> ModelProto:
    """Return the network with the preprocessing before it and probabilities after it."""
    graph = Graph("bundle")
    graph.rename(add_preprocessing(Value(graph, IMAGES), preprocessing), "pixels")
    graph.nodes.extend(network.graph.node)
    logits = Value(graph, "logits").op("Div", graph.constant(np.array(temperature, np.float32)))
    probabilities = logits.op("Sigmoid") if multilabel else logits.op("Softmax", axis=1)
    classes, features = (value.type.tensor_type.shape.dim[1].dim_value for value in network.graph.output)
    top = min(_TOP, classes)
    results = [probabilities, *graph.ops("TopK", 2, probabilities, graph.integers(top))]
    for value, name in zip(results, OUTPUTS[2:], strict=True):
        graph.rename(value, name)
    widths = (classes, features, classes, top, top)
    kinds = (*4 * [TensorProto.FLOAT], TensorProto.INT64)
    outputs = [
        helper.make_tensor_value_info(name, kind, ["N", width])
        for name, kind, width in zip(OUTPUTS, kinds, widths, strict=True)
    ]
    images = helper.make_tensor_value_info(IMAGES, TensorProto.UINT8, ["N", "H", "W", 3])
    used = {name for node in graph.nodes for name in node.input}  # quantisation leaves some behind
    tensors = [tensor for tensor in network.graph.initializer if tensor.name in used]
    merged = helper.make_graph(graph.nodes, "bundle", [images], outputs, tensors)
    return helper.make_model(merged, opset_imports=network.opset_import, ir_version=network.ir_version)

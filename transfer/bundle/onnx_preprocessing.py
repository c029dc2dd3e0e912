"""Evaluation's preprocessing as an ONNX graph: from decoded images of any size to the pixels that a network takes.

It computes what `transfer.images.prepare.prepare_pixels` does, to the bit. Pillow weighs pixels by integers of 22 bits
and rounds between the two axes, where ONNX's Resize weighs in float32. Here matrices of these integers are multiplied
in float64, in which their sums are exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, helper

from transfer.bundle.onnx_graph import DOUBLE, INT64, IR_VERSION, OPSET, UINT8, Graph, Value
from transfer.images.prepare import build_crop, has_colour
from transfer.preprocessing import Preprocessing

# Pillow's libImaging/Resample.c: the sum of the weights, and the pixels to either side that a filter weighs, times the
# scale where it shrinks.
_ONE = 2.0**22
_SUPPORT = {"bicubic": 2.0, "bilinear": 1.0}
# Pillow's libImaging/Convert.c: ITU-R 601 in 16 bits.
_LUMA = np.array([[19595.0], [38470.0], [7471.0]])
# So many rows or columns of the crop are computed at a time, from the pixels that they are made of.
_BLOCK = 8


def preprocessing_model(preprocessing: Preprocessing) -> ModelProto:
    """Return the preprocessing alone: `images` of any size to `pixels`; see `add_preprocessing`."""
    graph, size = Graph("preprocessing"), preprocessing.image_size
    graph.rename(add_preprocessing(Value(graph, "images"), preprocessing), "pixels")
    images = helper.make_tensor_value_info("images", UINT8, ["N", "H", "W", 3])
    pixels = helper.make_tensor_value_info("pixels", UINT8, ["N", size, size, len(preprocessing.mean)])
    opset = helper.make_opsetid("", OPSET)
    made = helper.make_graph(graph.nodes, graph.name, [images], [pixels])
    return helper.make_model(made, opset_imports=[opset], ir_version=IR_VERSION)


def add_preprocessing(images: Value, preprocessing: Preprocessing) -> Value:
    """Add the preprocessing of decoded images to their graph and return the pixels, both uint8.

    Args:
        images: RGB.
        preprocessing: see `transfer.images.prepare.build_crop`; its mean has 3 values, or 1 for grey.

    Shape:
        (N, H, W, 3) -> (N, image_size, image_size, C)

    Raises:
        BadValue: a value out of range.
    """
    pixels = _crop(images, preprocessing)
    if has_colour(len(preprocessing.mean)):
        return pixels
    return ((pixels.cast(DOUBLE).op("MatMul", images.graph.constant(_LUMA)) + 2.0**15) / 2.0**16).floor().cast(UINT8)


def _crop(images: Value, preprocessing: Preprocessing) -> Value:
    """(N, H, W, 3) -> (N, S, S, 3)"""
    graph, crop = images.graph, build_crop(preprocessing)
    size = crop.image_size
    lengths = images.op("Shape", start=1, end=3).cast(DOUBLE)
    if crop.resize.squash:
        resized = graph.constant(np.full(2, crop.resize.size, np.float64))
    else:
        resized = (lengths * crop.resize.size / lengths.op("ReduceMin")).floor()
    tall = _is_tall(lengths, resized)
    order = tall.op("Where", graph.integers(0, 1), graph.integers(1, 0))
    axes = [order.op("Gather", graph.integers(i)) for i in (0, 1)]
    first, second = (_taps(lengths.op("Gather", axis), resized.op("Gather", axis), preprocessing) for axis in axes)
    used = images
    for axis, taps in zip(axes, (first, second), strict=True):
        used = used.op("Slice", taps.first, taps.last, axis.op("Add", graph.integers(1)))
    turned = tall.op(
        "If",
        then_branch=graph.body(lambda inner: inner.op("Identity", used)),
        else_branch=graph.body(lambda inner: inner.op("Transpose", used, perm=[0, 2, 1, 3])),
    )
    rows = _weighed(turned, first, size)
    found = _weighed(rows.op("Transpose", perm=[0, 2, 1, 3]), second, size)  # its axes: second, first
    return tall.op("Where", found.op("Transpose", perm=[0, 2, 1, 3]), found)


def _is_tall(lengths: Value, resized: Value) -> Value:
    """Return whether Pillow resizes the height first, as it does since version 13; see `Resize.cut`."""
    saved = lengths - resized
    height, width = (saved.op("Gather", saved.graph.integers(axis)) for axis in (0, 1))
    return height.op("Greater", (width * 2).at_least(0))


@dataclass(frozen=True)
class _Taps:
    """Which pixels along an axis make up the crop, in B blocks of b rows or columns each.

    Attributes:
        first, last: the range of those that are used, int64 (1,).
        pixels: those of each block, as int64 indices in this range. Shape: (B, T)
        weights: integers in float64, that sum up to about 2 ** 22 over T. Shape: (B, b, T)
    """

    first: Value
    last: Value
    pixels: Value
    weights: Value


def _taps(length: Value, resized: Value, preprocessing: Preprocessing) -> _Taps:
    """Return the taps along an axis of this length that is resized to that one, each of shape (1,)."""
    graph, size = length.graph, preprocessing.image_size
    crop = np.minimum(np.arange(-(-size // _BLOCK) * _BLOCK), size - 1.0).reshape(-1, _BLOCK)
    start = ((resized - size) / 2).op("Round")  # half to even, as Python's
    scale = length / resized
    stretch = scale.at_least(1)
    reach = stretch * _SUPPORT[preprocessing.interpolation]
    centers = (start + graph.constant(crop + 0.5)) * scale
    first = (centers - reach + 0.5).floor().at_least(0)
    last = (centers + reach + 0.5).floor().at_most(length)
    block_first = first.op("ReduceMin", graph.integers(1))
    count = (last - block_first).op("ReduceMax", keepdims=0)
    pixels = block_first + graph.op("Range", *(graph.number(0), count, graph.number(1)))
    centers, first, last = (x.op("Unsqueeze", graph.integers(2)) for x in (centers, first, last))
    position = pixels.op("Unsqueeze", graph.integers(1))
    shares = _filtered(((position - centers + 0.5) * (graph.number(1) / stretch)).op("Abs"), preprocessing)
    shares = position.op("GreaterOrEqual", first).op("And", position.op("Less", last)).op("Where", shares, 0)
    shares = shares / shares.op("ReduceSum", graph.integers(2)) * _ONE
    weights = (shares.op("Abs") + 0.5).floor() * shares.op("Sign")
    pixels = pixels.at_most(length - 1)
    start, stop = pixels.op("ReduceMin", keepdims=0), pixels.op("ReduceMax", keepdims=0) + 1
    first, last = (x.cast(INT64).op("Reshape", graph.integers(1)) for x in (start, stop))
    return _Taps(first, last, (pixels - start).cast(INT64), weights)


def _filtered(x: Value, preprocessing: Preprocessing) -> Value:
    """Return Pillow's filter at these distances."""
    if preprocessing.interpolation == "bilinear":
        return (x.op("Neg") + 1).at_least(0)
    near = (x * 1.5 - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return x.op("Less", 1).op("Where", near, x.op("Less", 2).op("Where", far, 0))


def _weighed(pixels: Value, taps: _Taps, size: int) -> Value:
    """Return sums of pixels along their second axis. uint8 (N, L, M, 3) -> (N, size, M, 3)"""
    graph = pixels.graph
    flat = pixels.op("Reshape", graph.integers(0, 0, -1))

    def block(inner: Graph, indices: Value, weights: Value) -> Value:
        used = inner.op("Gather", flat, indices, axis=1).cast(DOUBLE)
        return ((weights.op("MatMul", used) + _ONE / 2) / _ONE).floor().at_least(0).at_most(255).cast(UINT8)

    body = graph.body(block, [INT64, DOUBLE])
    blocks = graph.op("Scan", taps.pixels, taps.weights, body=body, num_scan_inputs=2).op(
        "Transpose", perm=[1, 0, 2, 3]
    )
    rows = blocks.op("Reshape", graph.integers(0, -(-size // _BLOCK) * _BLOCK, -1, 3))
    return rows.op("Slice", graph.integers(0), graph.integers(size), graph.integers(1))

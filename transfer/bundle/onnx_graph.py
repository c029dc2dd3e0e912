"""ONNX graphs written as arithmetic on values, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

OPSET = 18
IR_VERSION = 8  # the oldest that goes with it: old runtimes read the files too
UINT8, INT64, DOUBLE = TensorProto.UINT8, TensorProto.INT64, TensorProto.DOUBLE
FLOAT = TensorProto.FLOAT


class Graph:
    """Nodes in the order in which they are added.

    Args:
        name: prefix of the names of its values, which no other graph of a model may have.
        around: the graph whose body this is.
    """

    def __init__(self, name: str, around: Graph | None = None) -> None:
        self.name = name
        self.nodes: list[NodeProto] = []
        self._numbers: count[int] = count() if around is None else around._numbers

    def op(self, kind: str, *inputs: Value, **attributes: Any) -> Value:
        """Add a node with one output and return that."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, outputs: int, *inputs: Value, **attributes: Any) -> list[Value]:
        """Add a node with several outputs and return them."""
        values = [self._value() for _ in range(outputs)]
        names = [value.name for value in values]
        self.nodes.append(helper.make_node(kind, [value.name for value in inputs], names, names[0], **attributes))
        return values

    def constant(self, array: NDArray[Any]) -> Value:
        return self.op("Constant", value=numpy_helper.from_array(array))

    def number(self, number: float) -> Value:
        return self.constant(np.array(number, np.float64))

    def integers(self, *numbers: int) -> Value:
        return self.constant(np.array(numbers, np.int64))

    def body(self, build: Callable[..., Value], takes: Sequence[int] = (), gives: int = UINT8) -> GraphProto:
        """Return the graph inside a node such as `If` or `Scan`, which may use the values of this one.

        Args:
            build: the graph and its inputs -> its output.
            takes: the types of its inputs.
            gives: the type of its output.
        """
        inner = Graph(self.name, self)
        inputs = [inner._value() for _ in takes]
        output = build(inner, *inputs)
        infos = [_info(value.name, kind) for value, kind in zip(inputs, takes, strict=True)]
        return helper.make_graph(inner.nodes, "body", infos, [_info(output.name, gives)])

    def rename(self, value: Value, name: str) -> None:
        """Give a value a name of its own."""
        self.nodes.append(helper.make_node("Identity", [value.name], [name]))

    def _value(self) -> Value:
        return Value(self, f"{self.name}/{next(self._numbers)}")


@dataclass(frozen=True)
class Value:
    """A node's output; numbers beside it in arithmetic are constants in float64."""

    graph: Graph
    name: str

    def op(self, kind: str, *others: Value | float, **attributes: Any) -> Value:
        """Add a node whose first input this is, and return its output."""
        values = [x if isinstance(x, Value) else self.graph.number(x) for x in others]
        return self.graph.op(kind, self, *values, **attributes)

    def __add__(self, other: Value | float) -> Value:
        return self.op("Add", other)

    def __sub__(self, other: Value | float) -> Value:
        return self.op("Sub", other)

    def __mul__(self, other: Value | float) -> Value:
        return self.op("Mul", other)

    def __truediv__(self, other: Value | float) -> Value:
        return self.op("Div", other)

    def floor(self) -> Value:
        return self.op("Floor")

    def at_least(self, other: Value | float) -> Value:
        return self.op("Max", other)

    def at_most(self, other: Value | float) -> Value:
        return self.op("Min", other)

    def cast(self, kind: int) -> Value:
        return self.op("Cast", to=kind)


def _info(name: str, kind: int) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, None)

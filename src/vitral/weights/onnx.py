"""ONNX graphs: nodes and constants of one `.onnx` file, read through a memory map after a strict check.

The file is a Protocol Buffers message (`ModelProto` of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto). The
nodes, the initialisers and the values of `Constant` nodes are read; nothing is run. Every count, length and shape is
held against the file before memory is taken for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from vitral.errors import CheckpointError
from vitral.text.protobuf import fields, signed, varint
from vitral.weights.files import mapped

MAX_NODES = 1 << 16
MAX_CONSTANTS = 1 << 16
MAX_ENDS = 1 << 10
"""Inputs, outputs or attributes of one node."""
MAX_DIMS = 8
MAX_NAME = 1 << 12
MAX_NUMBERS = 1 << 16
"""Numbers of a constant that are written one by one; more of them come as raw bytes."""

DTYPES: Mapping[int, np.dtype[Any]] = {
    1: np.dtype("<f4"), 2: np.dtype("u1"), 3: np.dtype("i1"), 4: np.dtype("<u2"), 5: np.dtype("<i2"),
    6: np.dtype("<i4"), 7: np.dtype("<i8"), 9: np.dtype("?"), 10: np.dtype("<f2"), 11: np.dtype("<f8"),
    12: np.dtype("<u4"), 13: np.dtype("<u8"),
}  # fmt: skip
"""`TensorProto.DataType` as numpy writes it."""
_LISTS = {1: 4, 2: 5, 3: 5, 4: 5, 5: 5, 6: 5, 7: 7, 9: 5, 10: 5, 11: 10, 12: 11, 13: 11}
"""Data type → the field of TensorProto that lists its numbers when they are not raw."""


@dataclass(frozen=True, kw_only=True)
class Constant:
    """A tensor of the file: where its bytes lie, or its few numbers."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    data: bytes | memoryview = field(repr=False)

    def array(self) -> NDArray[Any]:
        """The values, sharing memory with the file: not to be written to."""
        if 0 in self.shape:  # frombuffer refuses to make nothing
            return np.empty(self.shape, dtype=self.dtype)
        return np.frombuffer(self.data, dtype=self.dtype).reshape(self.shape)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operation. `inputs` and `outputs` are names of values; "" stands for an optional one left out."""

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, int | float | tuple[int, ...] | Constant]
    """Those that are numbers, lists of whole numbers or tensors."""

    @property
    def value(self) -> Constant | None:
        """Of a `Constant` node."""
        value = self.attributes.get("value") if self.op == "Constant" else None
        return value if isinstance(value, Constant) else None


class OnnxFile:
    """A graph: `.nodes` in the order of the file (which runs from inputs to outputs), `.initialisers` and `.constants`.

    Raises:
        CheckpointError: naming the file and what is wrong with it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        whole = memoryview(mapped(self.path))
        self.nodes: list[Node] = []
        self.initialisers: dict[str, Constant] = {}
        try:
            self._read(whole)
        except ValueError as error:
            if isinstance(error, CheckpointError):
                raise
            self._fail(str(error))
        values = {node.outputs[0]: value for node in self.nodes if (value := node.value) is not None}
        self.constants: dict[str, Constant] = {**values, **self.initialisers}
        """Every value that does not depend on the input."""
        self.producer: dict[str, Node] = {}
        """Value → the node that makes it."""
        self.consumers: dict[str, list[Node]] = {}
        """Value → the nodes that read it."""
        for node in self.nodes:
            self._link(node)

    def _link(self, node: Node) -> None:
        for value in filter(None, node.inputs):
            self.consumers.setdefault(value, []).append(node)
        for value in filter(None, node.outputs):
            if value in self.producer or value in self.initialisers:
                self._fail(f"the value {value!r:.80} is made twice")
            if value in self.consumers:  # so that no path through the graph comes back to where it was
                self._fail(f"the value {value!r:.80} is read before it is made")
            self.producer[value] = node

    def _read(self, whole: memoryview) -> None:
        graphs = [value for number, value in fields(whole) if number == 7]
        if len(graphs) != 1:
            self._fail(f"it holds {len(graphs)} graphs")
        if not isinstance(graphs[0], memoryview):
            self._fail("its graph is a number")
        for number, value in fields(graphs[0]):
            if number == 1:
                if len(self.nodes) >= MAX_NODES:
                    self._fail(f"it holds more than {MAX_NODES} nodes")
                self.nodes.append(self._node(value))
            elif number == 5:
                name, constant = self._tensor(value)
                if not name or name in self.initialisers or len(self.initialisers) >= MAX_CONSTANTS:
                    self._fail(f"the tensor {name!r:.80} has no name of its own, or is one too many")
                self.initialisers[name] = constant
            elif number == 15:
                self._fail("it holds sparse tensors, which are not supported")
        if not self.nodes:
            self._fail("its graph has no nodes")

    def _node(self, data: Any) -> Node:
        ends: dict[int, list[Any]] = {1: [], 2: [], 3: [], 4: [], 5: []}
        for number, value in fields(_message(data)):
            if number in ends:
                if len(ends[number]) >= MAX_ENDS:
                    self._fail(f"a node has more than {MAX_ENDS} inputs, outputs or attributes")
                ends[number].append(value)
        inputs, outputs, names, ops = ([_text(value) for value in ends[n]] for n in (1, 2, 3, 4))
        op, name = (ops or [""])[-1], (names or [""])[-1]
        attributes = dict(self._attribute(each, f"node {name!r:.80} ({op})") for each in ends[5])
        node = Node(op=op, name=name, inputs=tuple(inputs), outputs=tuple(outputs), attributes=attributes)
        if not op or not outputs:
            self._fail(f"node {name!r:.80} has no operation or no output")
        return node

    def _attribute(self, data: Any, where: str) -> tuple[str, int | float | tuple[int, ...] | Constant]:
        """(name, value) of an AttributeProto; a kind that is not read counts as 0, its default."""
        single: dict[int, Any] = {}
        listed: list[Any] = []
        for number, value in fields(_message(data)):
            if number in (6, 11):
                self._fail(f"{where} holds a graph of its own, which is not supported")
            if number == 8:
                listed.append(value)
            else:
                single[number] = value
        label = _text(single.get(1, b""))
        if 5 in single:
            return label, self._tensor(single[5])[1]
        if listed:
            return label, tuple(signed(number) for number in _numbers(listed, MAX_NUMBERS))
        if 2 in single:
            return label, float(np.frombuffer(_message(single[2]), dtype="<f4", count=1)[0])
        return label, signed(single[3]) if isinstance(single.get(3), int) else 0

    def _tensor(self, data: Any) -> tuple[str, Constant]:
        """(name, constant) of a TensorProto."""
        dims: list[int] = []
        listed: dict[int, list[Any]] = {}
        single: dict[int, Any] = {}
        for number, value in fields(_message(data)):
            if number == 1:
                dims += _numbers([value], MAX_DIMS)
            elif number in (4, 5, 7, 10, 11):
                listed.setdefault(number, []).append(value)
            else:
                single[number] = value
        name = _text(single.get(8, b""))
        if single.get(14, 0) or 13 in single:
            self._fail(f"tensor {name!r:.80} lies in another file, which is not supported", "Export it as one file")
        kind = single.get(2, 0)
        if kind not in DTYPES:
            self._fail(f"tensor {name!r:.80} is of data type {kind!r:.20}, which is not supported")
        dtype = DTYPES[kind]
        if len(dims) > MAX_DIMS or any(not 0 <= signed(dim) < 1 << 31 for dim in dims):
            self._fail(f"tensor {name!r:.80} has dimensions {dims[: MAX_DIMS + 1]}")
        raw = _message(single[9]) if 9 in single else _written_out(listed.get(_LISTS[kind], []), dtype)
        if len(raw) != (wanted := math.prod(dims) * dtype.itemsize):
            self._fail(f"tensor {name!r:.80} of shape {dims} has {len(raw)} bytes and needs {wanted}")
        return name, Constant(dtype=dtype, shape=tuple(dims), data=raw)

    def _fail(self, what: str, remedy: str = "Download or export it again") -> NoReturn:
        raise CheckpointError(f"{self.path} is not an ONNX file to be read here: {what}", remedy)


def _written_out(entries: list[Any], dtype: np.dtype[Any]) -> bytes:
    """The little-endian bytes of numbers that stand one by one or packed; half floats stand as their bits."""
    if dtype.kind == "f" and dtype.itemsize > 2:
        return b"".join(bytes(_message(entry)) for entry in entries)
    width = dtype.itemsize
    mask = (1 << 8 * width) - 1
    return b"".join((value & mask).to_bytes(width, "little") for value in _numbers(entries, MAX_NUMBERS))


def _numbers(entries: list[Any], most: int) -> list[int]:
    """Varints, each a field of its own or packed into one."""
    found: list[int] = []
    for entry in entries:
        if isinstance(entry, int):
            found.append(entry)
        else:
            place = 0
            while place < len(entry) and len(found) <= most:
                value, place = varint(entry, place)
                found.append(value)
        if len(found) > most:
            raise ValueError(f"more than {most} numbers where fewer belong")
    return found


def _message(value: Any) -> memoryview | bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where a message belongs")
    return value


def _text(value: Any) -> str:
    data = bytes(_message(value)[: MAX_NAME + 1])
    if len(data) > MAX_NAME:
        raise ValueError(f"a name of more than {MAX_NAME} bytes")
    return data.decode("utf-8")  # UnicodeDecodeError is a ValueError

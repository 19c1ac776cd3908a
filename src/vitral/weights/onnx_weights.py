"""The weights in an ONNX graph, named after the modules that use them and dequantised.

Exporters keep the names of parameters that a node reads as they are, but fold a linear layer's transposed matrix into
an anonymous constant (`onnx::MatMul_1022`). What reads it still says where it belongs: the scope of the node
(`/enc/block.0/layer.0/SelfAttention/q/MatMul`) is the path of the module. ONNX Runtime's dynamic quantisation leaves
the scopes as they are and rewrites

    y = x · W                into   y = float(MatMulInteger(x₈, W₈, zₓ, z)) · (sₓ · s)      matrices
    y = Gather(W, ids)       into   y = DequantizeLinear(Gather(W₈, ids), s, z)             tables

so that W = (W₈ - z) · s. Scale and zero point are found by following the graph, not by their names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from vitral.errors import CheckpointError
from vitral.weights.onnx import Constant, Node, OnnxFile

_ANONYMOUS = "onnx::"
_MOVES_ONLY = ("Gather", "Transpose", "Unsqueeze", "Squeeze", "Reshape", "Slice", "Identity")
"""Operations that pass the values of their first input on as they are."""
_MOVES_MOST = 8


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A tensor of the model as it lies in the graph: `stored`, or (stored - zero point) · scale."""

    stored: Constant
    scale: Constant | None = None
    zero_point: Constant | None = None
    axis: int = 0
    """Along which scale and zero point lie, where there is more than one of them."""
    transposed: bool = False
    """Stored as in × out."""
    sources: tuple[str, ...] = field(default=())
    """Names of the initialisers it is made of."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what `read` returns."""
        return self.stored.shape[::-1] if self.transposed else self.stored.shape

    def read(self) -> NDArray[np.float32]:
        """The values, float32."""
        values = self.stored.array()
        if self.scale is not None:
            zero = 0 if self.zero_point is None else self._along(self.zero_point).astype(np.int32)
            values = (values.astype(np.int32) - zero).astype(np.float32) * self._along(self.scale)
        return np.ascontiguousarray(values.T if self.transposed else values, dtype=np.float32)

    def _along(self, constant: Constant) -> NDArray[Any]:
        """A scalar as it is, a vector along its axis of the stored tensor."""
        values = constant.array()
        if values.size == 1:
            return values.reshape(())
        return values.reshape([-1 if axis == self.axis else 1 for axis in range(len(self.stored.shape))])


def read_weights(graph: OnnxFile) -> dict[str, Weight]:
    """Name → weight, for every initialiser of the graph, each accounted for.

    Raises:
        CheckpointError: a tensor whose use is not understood, or two that would have one name.
    """
    found: dict[str, Weight] = {}
    for node in graph.nodes:
        for name, weight in _weights_of(graph, node):
            if found.setdefault(name, weight).sources != weight.sources:
                _fail(graph, f"{name!r:.80} stands for several tensors")
    used = {source for weight in found.values() for source in weight.sources}
    if unused := [name for name in graph.initialisers if name not in used]:
        _fail(graph, f"the use of the tensor {unused[0]!r:.80} is not understood ({len(unused)} such)")
    return found


def _weights_of(graph: OnnxFile, node: Node) -> list[tuple[str, Weight]]:
    """The weights a node reads (a tensor that is read in two places comes twice)."""
    if node.op == "MatMulInteger":
        return [_integer_matrix(graph, node)]
    if node.op == "DequantizeLinear":
        return [_dequantised(graph, node)]
    floats = [name for name in node.inputs if name in graph.initialisers and _is_float(graph.initialisers[name])]
    if node.op == "MatMul":
        return [(_named(graph, node, name), _plain(graph, name, transposed=True)) for name in floats]
    named = [name for name in floats if not name.startswith(_ANONYMOUS) and graph.initialisers[name].shape]
    return [(name, _plain(graph, name)) for name in named]


def _plain(graph: OnnxFile, name: str, *, transposed: bool = False) -> Weight:
    return Weight(stored=graph.initialisers[name], transposed=transposed, sources=(name,))


def _integer_matrix(graph: OnnxFile, node: Node) -> tuple[str, Weight]:
    """The second factor of an integer product, whose scale is met after it: x₈·W₈ → Cast → Mul(·, Mul(sₓ, s))."""
    name, zero = node.inputs[1], node.inputs[3] if len(node.inputs) > 3 else ""
    cast = _reader(graph, node, "Cast")
    product = cast and _reader(graph, cast, "Mul")
    makers = [graph.producer.get(value) for value in product.inputs] if product else []
    both = next((maker for maker in makers if maker and maker.op == "Mul"), None)
    scale = [value for value in both.inputs if value in graph.initialisers] if both else []
    if len(scale) != 1 or name not in graph.initialisers:
        _fail(graph, f"the scale of the product {node.name!r:.120} is not where dynamic quantisation puts it")
    sources = (name, scale[0], *([zero] if zero else []))
    weight = _quantised(graph, sources, axis=len(graph.initialisers[name].shape) - 1, transposed=True)
    return _named(graph, node, name), weight


def _reader(graph: OnnxFile, node: Node, op: str) -> Node | None:
    """The one node that reads what another makes, if it is of that kind."""
    readers = graph.consumers.get(node.outputs[0], [])
    return readers[0] if len(readers) == 1 and readers[0].op == op else None


def _dequantised(graph: OnnxFile, node: Node) -> tuple[str, Weight]:
    """A table of which a part is taken, moved and then dequantised, or one that is dequantised whole."""
    value, moved = node.inputs[0], 0
    while moved < _MOVES_MOST and (maker := graph.producer.get(value)) and maker.op in _MOVES_ONLY:
        value, moved = maker.inputs[0], moved + 1
    axis = node.attributes.get("axis", 1)
    if value not in graph.initialisers or not isinstance(axis, int):
        _fail(graph, f"{node.name!r:.120} dequantises what is no weight")
    weight = _quantised(graph, (value, *filter(None, node.inputs[1:3])), axis=axis)
    if node.attributes.get("block_size") or (moved and weight.scale is not None and weight.scale.array().size > 1):
        _fail(graph, f"{node.name!r:.120} has scales that do not stay with their rows")
    return _named(graph, node, value), weight


def _quantised(graph: OnnxFile, sources: tuple[str, ...], *, axis: int, transposed: bool = False) -> Weight:
    stored, scale, *zero = (graph.constants.get(name) for name in sources)
    if stored is None or scale is None or stored.dtype.kind not in "iu" or stored.dtype.itemsize > 2:
        _fail(graph, f"{sources[0]!r:.80} is not a tensor of small whole numbers with a constant scale")
    rank = len(stored.shape)
    fits = [1] if not -rank <= axis < rank else [1, stored.shape[axis]]
    for constant in (scale, *zero):
        if constant is None or len(constant.shape) > 1 or int(np.prod(constant.shape)) not in fits:
            _fail(
                graph, f"scale and zero point of {sources[0]!r:.80} are neither one nor as many as axis {axis} is long"
            )
    if not _is_float(scale) or not np.isfinite(scale.array()).all():
        _fail(graph, f"the scale of {sources[0]!r:.80} is not a finite number")
    return Weight(
        stored=stored,
        scale=scale,
        zero_point=zero[0] if zero else None,
        axis=axis % rank if rank else 0,
        transposed=transposed,
        sources=sources,
    )


def _named(graph: OnnxFile, node: Node, constant: str) -> str:
    """The constant's own name, or for an anonymous one that of the module whose node reads it."""
    if not constant.startswith(_ANONYMOUS):
        return constant.removesuffix("_quantized")
    scope = node.name.strip("/").split("/")[:-1]
    if not scope:
        _fail(graph, f"nothing says to which module the tensor {constant!r:.80} belongs")
    return ".".join([*scope, "weight"])


def _is_float(constant: Constant) -> bool:
    return constant.dtype.kind == "f"


def _fail(graph: OnnxFile, what: str) -> NoReturn:
    raise CheckpointError(f"{graph.path}: {what}", "Only float graphs and dynamically quantised ones are understood")

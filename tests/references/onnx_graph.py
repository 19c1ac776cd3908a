"""Runs an ONNX graph node by node in NumPy: what the published file computes, without any knowledge of the model.

It knows the operations that the tests' graphs need, as https://onnx.ai/onnx/operators defines them. With `exact=True`
the dynamic quantisation of activations is left out (x₈ = x, scale 1, zero point 0): the graph then computes in floats
what its weights mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
_TYPES = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 10: np.float16, 11: np.float64}


def run(graph: Any, inputs: Mapping[str, Array], *, exact: bool) -> dict[str, Array]:
    """Every value of the graph by name, for these inputs.

    Args:
        graph: `.nodes` in order, each with op, inputs, outputs and attributes; `.initialisers`.
        inputs: the graph's inputs by name.
    """
    values: dict[str, Array] = {name: constant.array() for name, constant in graph.initialisers.items()}
    values |= inputs
    for node in graph.nodes:
        given = [values[name] if name else None for name in node.inputs]
        attributes = {k: v.array() if hasattr(v, "array") else v for k, v in node.attributes.items()}
        if node.op == "DynamicQuantizeLinear":
            made = (given[0], np.float32(1), np.uint8(0)) if exact else _dynamic_quantise(given[0])
        elif node.op == "MatMulInteger":
            made = (_integer_product(*given, exact=exact),)
        else:
            with np.errstate(divide="ignore", invalid="ignore"):  # branches that a later Where does not take
                made = (_OPERATIONS[node.op](given, attributes),)
        values.update(zip(node.outputs, (np.asarray(each) for each in made), strict=True))
    return values


def _dynamic_quantise(x: Array) -> tuple[Array, Array, Array]:
    """uint8 whose range holds zero."""
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    scale = np.float32((high - low) / 255)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8), scale, zero


def _integer_product(a: Array, b: Array, a_zero: Array, b_zero: Array, *, exact: bool) -> Array:
    """(a - zₐ)(b - z_b); the whole numbers are below 2⁵³ and exact in float64."""
    product = (a.astype(np.float64) - a_zero) @ (b.astype(np.float64) - b_zero)
    return product if exact else product.astype(np.int32)


def _divide(a: Array, b: Array) -> Array:
    return a // b if a.dtype.kind in "iu" else a / b


def _softmax(x: Array, axis: int) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _reshape(x: Array, shape: Array) -> Array:
    """0 keeps a dimension."""
    return x.reshape([x.shape[i] if size == 0 else int(size) for i, size in enumerate(shape)])


def _slice(x: Array, starts: Array, stops: Array, axes: Array | None = None, steps: Array | None = None) -> Array:
    places = [slice(None)] * x.ndim
    for i, (start, stop) in enumerate(zip(starts, stops, strict=True)):
        axis = i if axes is None else int(axes[i])
        places[axis] = slice(int(start), int(stop), 1 if steps is None else int(steps[i]))
    return x[tuple(places)]


def _expand(x: Array, shape: Array) -> Array:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(int(size) for size in shape)))


def _scatter(x: Array, indices: Array, updates: Array) -> Array:
    out = x.copy()
    out[tuple(np.moveaxis(indices, -1, 0))] = updates
    return out


def _unsqueeze(x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(int(axis) for axis in np.atleast_1d(axes)))


_OPERATIONS: dict[str, Callable[[list[Any], Mapping[str, Any]], Any]] = {
    "Constant": lambda x, a: a["value"],
    "ConstantOfShape": lambda x, a: np.full([int(n) for n in x[0]], a["value"].reshape(())),
    "Shape": lambda x, a: np.asarray(x[0].shape, dtype=np.int64),
    "Cast": lambda x, a: x[0] if x[0].dtype == np.float64 and a["to"] == 1 else x[0].astype(_TYPES[a["to"]]),
    "Range": lambda x, a: np.arange(x[0], x[1], x[2]),
    "Gather": lambda x, a: np.take(x[0], x[1], axis=a.get("axis", 0)),
    "Concat": lambda x, a: np.concatenate(x, axis=a["axis"]),
    "Transpose": lambda x, a: x[0].transpose(a["perm"]),
    "Reshape": lambda x, a: _reshape(*x),
    "Unsqueeze": lambda x, a: _unsqueeze(*x),
    "Expand": lambda x, a: _expand(*x),
    "Slice": lambda x, a: _slice(*x),
    "ScatterND": lambda x, a: _scatter(*x),
    "DequantizeLinear": lambda x, a: (x[0].astype(np.int32) - x[2]).astype(np.float32) * x[1],
    "MatMul": lambda x, a: x[0] @ x[1],
    "ReduceMean": lambda x, a: x[0].mean(axis=tuple(int(axis) for axis in x[1]), keepdims=bool(a["keepdims"])),
    "Softmax": lambda x, a: _softmax(x[0], a["axis"]),
    "Add": lambda x, a: x[0] + x[1],
    "Sub": lambda x, a: x[0] - x[1],
    "Mul": lambda x, a: x[0] * x[1],
    "Div": lambda x, a: _divide(*x),
    "Pow": lambda x, a: x[0] ** x[1],
    "Sqrt": lambda x, a: np.sqrt(x[0]),
    "Log": lambda x, a: np.log(x[0]),
    "Abs": lambda x, a: np.abs(x[0]),
    "Neg": lambda x, a: -x[0],
    "Tanh": lambda x, a: np.tanh(x[0]),
    "Min": lambda x, a: np.minimum(*x),
    "Less": lambda x, a: x[0] < x[1],
    "Greater": lambda x, a: x[0] > x[1],
    "Equal": lambda x, a: x[0] == x[1],
    "Where": lambda x, a: np.where(*x),
}

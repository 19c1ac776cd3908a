"""ONNX graphs: what a file says is read and named rightly, and a damaged or strange one is refused.

Each case is written by `onnx_files`, which shares no code with the reader.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.weights import onnx_files as make
from vitral.errors import CheckpointError
from vitral.weights.onnx import OnnxFile
from vitral.weights.onnx_weights import read_weights

RNG = np.random.default_rng(0)


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[bytes], OnnxFile]:
    def write(data: bytes) -> OnnxFile:
        (tmp_path / "graph.onnx").write_bytes(data)
        return OnnxFile(tmp_path / "graph.onnx")

    return write


# ── the file ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["raw", "packed", "single"])
@pytest.mark.parametrize("dtype", sorted(make.TYPES))
def test_a_tensor_is_read_however_it_is_written(dtype: str, how: str, opened: Any) -> None:
    values = (RNG.standard_normal((2, 3)) * 40).astype(dtype)
    graph = opened(make.model([make.node("Identity", ["w"], ["y"])], [make.tensor("w", values, how=how)]))
    found = graph.constants["w"].array()
    assert found.dtype == values.dtype and np.array_equal(found, values)


def test_nodes_are_read_with_their_attributes(opened: Any) -> None:
    nodes = [
        make.node("Constant", [], ["c"], value=make.tensor("", np.float32(0.25))),
        make.node("Transpose", ["x"], ["y"], "/a/Transpose", perm=[0, 2, 1]),
        make.node("Softmax", ["y"], ["z"], axis=-1, epsilon=0.5),
        make.node("Empty", ["z", "", "c"], ["e"], value=make.tensor("", np.zeros((0, 4), np.float32))),
    ]
    graph = opened(make.model(nodes, also=make.text(8, make.number(2, 18))))
    assert [node.op for node in graph.nodes] == ["Constant", "Transpose", "Softmax", "Empty"]
    assert graph.constants["c"].array() == np.float32(0.25)
    assert graph.nodes[1].name == "/a/Transpose" and graph.nodes[1].attributes == {"perm": (0, 2, 1)}
    assert graph.nodes[2].attributes == {"axis": -1, "epsilon": 0.5}
    assert graph.nodes[3].inputs == ("z", "", "c")
    assert graph.nodes[3].attributes["value"].array().shape == (0, 4)
    assert graph.producer["z"] is graph.nodes[2] and graph.consumers["y"] == [graph.nodes[2]]


W = make.tensor("w", np.zeros((2, 2), np.float32))
READS_W = make.node("MatMul", ["x", "w"], ["y"])


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"\x0b", "wire type 3"),
        (make.number(7, 5), "a number stands|its graph is a number"),
        (make.model([READS_W])[:-6], "ends past the end"),
        (make.number(1, 8), "holds 0 graphs"),
        (make.model([READS_W]) + make.text(7, b""), "holds 2 graphs"),
        (make.model([]), "no nodes"),
        (make.model([READS_W], [W, W]), "no name of its own"),
        (make.model([READS_W], [make.tensor("", np.float32(0))]), "no name of its own"),
        (make.model([READS_W, READS_W], [W]), "made twice"),
        (make.model([make.node("Identity", ["x"], ["w"])], [W]), "made twice"),
        (make.model([make.node("Neg", ["b"], ["a"]), make.node("Neg", ["a"], ["b"])]), "before it is made"),
        (make.model([make.node("", ["x"], ["y"])]), "no operation"),
        (make.model([READS_W], [W[:-1]]), "ends past the end"),
        (make.model([READS_W], [W + make.number(1, 2)]), "has 16 bytes and needs 32"),
        (make.model([READS_W], [make.number(1, 1 << 31) + make.number(2, 1) + make.text(8, "w")]), "has dimensions"),
        (make.model([READS_W], [make.number(1, -1) + make.number(2, 1) + make.text(8, "w")]), "has dimensions"),
        (make.model([READS_W], [make.number(1, 1) * 9 + make.number(2, 1) + make.text(8, "w")]), "has dimensions"),
        (make.model([READS_W], [make.number(2, 8) + make.text(8, "w")]), "data type 8"),
        (make.model([READS_W], [W + make.number(14, 1)]), "lies in another file"),
        (make.model([READS_W], [W + make.text(13, b"")]), "lies in another file"),
        (make.model([make.text(4, "If") + make.text(2, "y") + make.text(5, make.text(6, b""))]), "graph of its own"),
        (make.model([make.text(4, b"\xff") + make.text(2, "y")]), "utf-8"),
        (make.model([make.text(4, "A" * 5000) + make.text(2, "y")]), "a name of more than"),
        (make.model([make.node("Sum", ["x"] * 2000, ["y"])]), "more than 1024"),
        (make.model([READS_W], [make.number(2, 7) + make.text(8, "w") + make.text(7, bytes(70000))]), "than 65536"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_sound_is_refused(data: bytes, says: str, opened: Any) -> None:
    with pytest.raises(CheckpointError, match=says):
        opened(data)


def test_what_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        OnnxFile(tmp_path / "none.onnx")


@settings(max_examples=300, deadline=None)
@given(drawn=st.data())
def test_no_damage_does_more_than_raise_an_error(
    drawn: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    whole = bytearray(_product_graph()[0])
    for _ in range(drawn.draw(st.integers(1, 4))):
        whole[drawn.draw(st.integers(0, len(whole) - 1))] = drawn.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(whole[: drawn.draw(st.integers(1, len(whole)))])
    try:
        for weight in read_weights(OnnxFile(path)).values():
            weight.read()
    except CheckpointError as error:
        assert str(path) in str(error)


# ── weights in the graph ──────────────────────────────────────────────────────────────────────────────────────────


ONE, NONE = np.float32(1), np.int8(0)


def _product_graph(scale: Any = ONE, zero: Any = NONE, rows: int = 3) -> tuple[bytes, Any]:
    """A quantised table, a norm's weight and a quantised product whose matrix is anonymous."""
    rng = np.random.default_rng(1)
    table = rng.integers(0, 255, (5, rows)).astype(np.uint8)
    matrix = rng.integers(-127, 127, (rows, 4)).astype(np.int8)
    norm = rng.standard_normal(rows).astype(np.float32)
    nodes = [
        make.node("Gather", ["m.embed.weight_quantized", "ids"], ["rows"], "/m/embed/Gather"),
        make.node("DequantizeLinear", ["rows", *(f"m.embed.weight_{e}" for e in ("scale", "zero_point"))], ["x0"]),
        make.node("Mul", ["x0", "m.norm.weight"], ["x"], "/m/norm/Mul"),
        *make.quantised_product("/m/block.0/q", "x", "onnx::MatMul_7", "y"),
    ]  # fmt: skip
    tensors = [
        make.tensor("m.embed.weight_quantized", table), make.tensor("m.embed.weight_scale", np.float32(0.1)),
        make.tensor("m.embed.weight_zero_point", np.uint8(138), how="single"), make.tensor("m.norm.weight", norm),
        make.tensor("onnx::MatMul_7_quantized", matrix), make.tensor("onnx::MatMul_7_scale", scale),
        make.tensor("onnx::MatMul_7_zero_point", zero, how="packed"),
    ]  # fmt: skip
    return make.model(nodes, tensors), (table, matrix, norm)


@pytest.mark.parametrize(
    ("scale", "zero"),
    [
        (np.float32(0.5), np.int8(-3)),
        (np.asarray([0.5, 0.25, 2, 1], np.float32), np.asarray([0, 1, -2, 3], np.int8)),
        (np.asarray([0.5, 0.25, 2, 1], np.float32), np.int8(0)),
    ],
)
def test_weights_are_named_by_what_reads_them_and_dequantised(scale: Any, zero: Any, opened: Any) -> None:
    data, (table, matrix, norm) = _product_graph(scale, zero)
    found = read_weights(opened(data))
    assert {name: weight.shape for name, weight in found.items()} == {
        "m.embed.weight": (5, 3),
        "m.norm.weight": (3,),
        "m.block.0.q.weight": (4, 3),
    }
    np.testing.assert_array_equal(found["m.norm.weight"].read(), norm)
    np.testing.assert_allclose(found["m.embed.weight"].read(), 0.1 * (table.astype(float) - 138), rtol=1e-6)
    expected = [[s * (float(v) - z) for v in column] for column, s, z in
                zip(matrix.T, np.broadcast_to(scale, 4), np.broadcast_to(zero, 4), strict=True)]  # fmt: skip
    np.testing.assert_allclose(found["m.block.0.q.weight"].read(), expected, rtol=1e-6)


def test_a_table_has_its_scales_along_the_axis_it_names(opened: Any) -> None:
    values, scale = RNG.integers(-9, 9, (3, 2)).astype(np.int8), np.asarray([1, 2, 4], np.float32)
    nodes = [make.node("DequantizeLinear", ["a_quantized", "s"], ["a"], axis=0), make.node("Relu", ["a"], ["y"])]
    found = read_weights(opened(make.model(nodes, [make.tensor("a_quantized", values), make.tensor("s", scale)])))
    np.testing.assert_array_equal(found["a"].read(), values * scale[:, None])


def test_float_graphs_are_named_in_the_same_way(opened: Any) -> None:
    matrix = RNG.standard_normal((3, 4)).astype(np.float32)
    nodes = [make.node("MatMul", ["x", "onnx::MatMul_3"], ["y"], "/block.1/wo/MatMul")]
    found = read_weights(opened(make.model(nodes, [make.tensor("onnx::MatMul_3", matrix)])))
    np.testing.assert_array_equal(found["block.1.wo.weight"].read(), matrix.T)


def _with(nodes: list[bytes], tensors: list[bytes]) -> bytes:
    return make.model([*nodes], tensors)


Q, S = make.tensor("onnx::q_quantized", np.zeros((2, 3), np.int8)), make.tensor("onnx::q_scale", np.float32(1))
Z = make.tensor("onnx::q_zero_point", np.int8(0))
PRODUCT = make.quantised_product("/a/q", "x", "onnx::q", "y")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (_with(PRODUCT, [Q, S, Z, make.tensor("more", np.float32([1]))]), "the use of the tensor 'more'"),
        (_with(PRODUCT[:3], [Q, S, Z]), "the scale of the product"),
        (_with([*PRODUCT, make.node("Neg", ["y.i"], ["other"])], [Q, S, Z]), "the scale of the product"),
        (_with(PRODUCT, [Q, make.tensor("onnx::q_scale", np.float32([1, 1])), Z]), "neither one nor as many"),
        (_with(PRODUCT, [Q, make.tensor("onnx::q_scale", np.float32(np.nan)), Z]), "not a finite number"),
        (_with(PRODUCT, [Q, make.tensor("onnx::q_scale", np.int8(1)), Z]), "not a finite number"),
        (_with(PRODUCT, [make.tensor("onnx::q_quantized", np.float32([[1]])), S, Z]), "small whole numbers"),
        (_with(make.quantised_product("", "x", "onnx::q", "y"), [Q, S, Z]), "nothing says to which module"),
        (_with([*PRODUCT, *make.quantised_product("/a/q", "y", "onnx::r", "w")],
               [Q, S, Z, *(make.tensor(f"onnx::r_{end}", v) for end, v in
                (("quantized", np.zeros((3, 2), np.int8)), ("scale", np.float32(1)), ("zero_point", np.int8(0))))]),
         "stands for several tensors"),
        (_with([make.node("DequantizeLinear", ["x", "s"], ["y"])], [make.tensor("s", np.float32(1))]), "is no weight"),
        (_with([make.node("Gather", ["t", "ids"], ["g"]), make.node("DequantizeLinear", ["g", "s"], ["y"])],
               [make.tensor("t", np.zeros((2, 3), np.int8)), make.tensor("s", np.float32([1, 1, 1]))]),
         "do not stay with their rows"),
    ],
)  # fmt: skip
def test_a_graph_that_is_not_understood_is_refused(data: bytes, says: str, opened: Any) -> None:
    with pytest.raises(CheckpointError, match=says):
        read_weights(opened(data))

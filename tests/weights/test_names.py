"""Names of files and names of parameters: each exactly once, both ways, for every family."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nn.tiny import CONFIGS, tiny
from vitral.errors import CheckpointError
from vitral.families import family
from vitral.families.common.rules import Names, Split, Transposed
from vitral.weights.names import Entry, export, match

NAMES = Names(
    prefix="model.",
    bare=("head.{}",),
    rules={
        "table.weight": "embed.weight",
        "layers.{}.qkv.{}": Transposed(Split(("blocks.{}.q.{}", "blocks.{}.k.{}"))),
        "layers.{}.norm.weight": "blocks.{}.norm.weight",
        "head.weight": "head.weight",
    },
    ignore=("layers.{}.mask",),
    old=(("norm.gamma", "norm.weight"),),
    tied={"head.weight": "table.weight"},
)
PARAMETERS = ["embed.weight", *(f"blocks.{i}.{p}.weight" for i in range(2) for p in ("q", "k", "norm"))]
FILE = ["model.table.weight", *(f"model.layers.{i}.{p}.weight" for i in range(2) for p in ("qkv", "norm"))]


def pairs(file: list[str], parameters: list[str] = PARAMETERS) -> dict[str, tuple[str, ...]]:
    return {entry.file: entry.parameters for entry in match(NAMES, file, parameters).entries}


def test_every_tensor_finds_its_parameters() -> None:
    found = pairs(FILE)
    assert found["model.layers.1.qkv.weight"] == ("blocks.1.q.weight", "blocks.1.k.weight")
    assert sorted(p for parameters in found.values() for p in parameters) == sorted(PARAMETERS)


def test_the_prefix_may_be_absent() -> None:
    assert list(pairs([name.removeprefix("model.") for name in FILE]).values()) == list(pairs(FILE).values())


def test_old_endings_are_understood() -> None:
    old = [name.replace("norm.weight", "norm.gamma") for name in FILE]
    assert pairs(old)["model.layers.0.norm.gamma"] == ("blocks.0.norm.weight",)


def test_known_buffers_are_passed_over() -> None:
    assert pairs([*FILE, "model.layers.0.mask"]) == pairs(FILE)


def test_a_tied_tensor_may_be_repeated() -> None:
    found = match(NAMES, [*FILE, "head.weight"], PARAMETERS)
    assert found.repeats == (("head.weight", "model.table.weight"),)
    found = match(NAMES, [*FILE, "head.weight"], [*PARAMETERS, "head.weight"])
    assert found.repeats == ()
    assert found.entries[-1].parameters == ("head.weight",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f[1:], "lacks 'model.table.weight'"),
        (lambda f: [n for n in f if "1.qkv" not in n], "lacks 'model.layers.1.qkv.weight'"),
        (lambda f: [*f, "model.layers.0.qkv.bias"], "holds 'model.layers.0.qkv.bias', which the model has not"),
        (lambda f: [*f, "model.layers.2.norm.weight"], "holds 'model.layers.2.norm.weight'"),
        (
            lambda f: [*f, "layers.0.norm.weight"],
            "'layers.0.norm.weight' and 'model.layers.0.norm.weight' are the same",
        ),
        (lambda f: [*f, "model.layers.0.norm.gamma"], "are the same tensor twice"),
        (lambda f: [*f, "model.layers.00.norm.weight"], "holds 'model.layers.00.norm.weight'"),
        (
            lambda f: [n for n in f if "table" not in n] + ["head.weight"],
            "lacks 'model.table.weight' and holds 'head.weight'",
        ),
        (lambda f: [*f, "a\nb"], r"holds 'a\\nb'"),
        (lambda f: [*f, *(f"x{i}" for i in range(9))], "and 5 more"),
        (lambda f: [], "lacks .* and 1 more"),
    ],
)
def test_what_does_not_fit_is_named(change, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(CheckpointError, match=said) as error:
        match(NAMES, change(FILE), PARAMETERS, folder="folder x")
    assert "\n" not in str(error.value) and str(error.value).startswith("folder x")


def test_a_parameter_without_a_published_name_cannot_be_written() -> None:
    with pytest.raises(CheckpointError, match=r"no published name is known for parameter 'blocks.0.new'"):
        export(NAMES, [*PARAMETERS, "blocks.0.new"])
    with pytest.raises(CheckpointError, match=r"blocks\.0\.q"):
        export(NAMES, [name for name in PARAMETERS if name != "blocks.0.k.weight"])


@pytest.mark.parametrize("name", list(CONFIGS))
def test_out_and_in_again(name: str) -> None:
    parameters = [p for p, _ in tiny(name).named_parameters()]
    names = family(name).NAMES
    entries = export(names, parameters)
    assert len({entry.file for entry in entries}) == len(entries)
    found = match(names, [entry.file for entry in entries], parameters)
    assert [(e.file, e.parameters, e.transposed) for e in found.entries] == [
        (e.file, e.parameters, e.transposed) for e in entries
    ]


@given(
    parts=st.integers(1, 4),
    rows=st.integers(1, 5),
    columns=st.integers(1, 5),
    transposed=st.booleans(),
    one=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_packing_undoes_unpacking(parts: int, rows: int, columns: int, transposed: bool, one: bool) -> None:
    """Matrices and, as fused biases are, vectors."""
    shape = (rows,) if one else (rows, columns)
    tensors = [torch.randn(shape) for _ in range(parts)]
    entry = Entry(file="x", parameters=tuple(map(str, range(parts))), transposed=transposed and not one)
    packed = entry.pack(tensors)
    assert packed.shape == entry.shape([shape] * parts)
    assert packed.is_contiguous()
    assert all(torch.equal(a, b) for a, b in zip(entry.unpack(packed), tensors, strict=True))


def test_a_transposed_fused_tensor_is_laid_out_as_published() -> None:
    """in × (q then k then v), the layout of the 2019 files."""
    q, k, v = (torch.full((2, 3), float(n)) for n in (1, 2, 3))
    packed = Entry(file="x", parameters=("q", "k", "v"), transposed=True).pack([q, k, v])
    assert packed.tolist() == [[1, 1, 2, 2, 3, 3]] * 3

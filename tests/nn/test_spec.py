"""A model as data: checked where it is written, shared by identity, built without memory."""

from __future__ import annotations

from threading import Thread
from typing import Any

import pytest
import torch
from torch import nn

from tests.nn.tiny import CONFIGS, some_ids, tiny_spec
from vitral.families import spec
from vitral.nn import Attention, Fused, Head, LayerNorm, Model, RMSNorm, Rotary, Spec, Table, Tied


def test_a_misspelt_argument_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError, match="n_head"):
        Spec(Attention, d_model=8, n_head=2, n_kv_heads=2, head_dim=4)
    with pytest.raises(TypeError, match="head_dim"):
        Spec(Attention, d_model=8, n_heads=2, n_kv_heads=2)
    with pytest.raises(TypeError, match="epz"):
        Spec(RMSNorm, d=4).replace(epz=1)


def test_a_spec_is_frozen() -> None:
    made = Spec(RMSNorm, d=4)
    with pytest.raises(AttributeError, match="frozen"):
        made.part = LayerNorm
    with pytest.raises(TypeError):
        made.args["d"] = 5  # type: ignore[index]
    assert made.replace(d=5).args["d"] == 5 and made.args["d"] == 4
    assert repr(made) == "Spec(RMSNorm, d=4)"


def test_the_same_object_is_built_once_and_a_copy_anew() -> None:
    norm = Spec(RMSNorm, d=4)
    shared = Spec(Holder, parts=[norm, norm, norm.replace()])
    a, b, c = shared.build().parts
    assert a is b and a is not c
    assert shared.count().total == 8


class Holder(nn.Module):
    def __init__(self, parts: Any) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)


def test_two_builds_share_nothing() -> None:
    made = tiny_spec("gpt2")
    a, b = made.build(), made.build()
    assert not {p.data_ptr() for p in a.parameters()} & {p.data_ptr() for p in b.parameters()}


def test_a_walk_meets_every_spec_once() -> None:
    made = tiny_spec("llama3")
    specs = list(made.walk())
    assert specs[0] is made and len({id(s) for s in specs}) == len(specs)
    assert sum(s.part is Attention for s in specs) == 2
    assert sum(s.part is Rotary for s in specs) == 1


def test_a_rewrite_changes_all_and_keeps_what_is_shared() -> None:
    made = tiny_spec("llama3", tie_word_embeddings=True)
    calls: list[Spec] = []

    def change(part: Spec) -> Spec:
        calls.append(part)
        if part.part is Table:
            return part.replace(n=64)
        return part.replace(theta=77.0) if part.part is Rotary else part

    new = made.rewrite(change)
    assert len(calls) == len(list(made.walk()))
    model = new.build()
    assert model.head.proj.table is model.embed.tokens and model.embed.tokens.weight.shape[0] == 64
    assert len(model.stack.shared) == 1 and model.stack.shared[0].theta == 77.0
    assert made.build().embed.tokens.weight.shape[0] == 50, "the first tree is as it was"
    assert made.rewrite(lambda part: part) is made


def test_a_kernel_can_be_replaced_everywhere() -> None:
    made = tiny_spec("qwen3")
    new = made.rewrite(lambda s: s.replace(kernel=Spec(Fused, softcap=5.0)) if s.part is Attention else s)
    assert [m.softcap for m in new.build().modules() if isinstance(m, Fused)] == [5.0, 5.0]


def test_a_meta_build_takes_no_memory_whatever_the_size() -> None:
    model = spec("llama3/3.1-405b").build(device="meta")
    assert {p.device.type for p in model.parameters()} == {"meta"}
    assert model.stack.shared[0].frequencies.device.type == "cpu"


@pytest.mark.parametrize("name", list(CONFIGS))
def test_building_leaves_torch_as_it_was(name: str) -> None:
    made = tiny_spec(name)
    model = made.build(dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert torch.get_default_dtype() == torch.float32 and torch.empty(1).device.type == "cpu"
    with pytest.raises(ValueError, match="even"):
        Spec(Rotary, dim=3).build(dtype=torch.float64)
    assert torch.get_default_dtype() == torch.float32
    assert bool(model(some_ids()).isfinite().all())


def test_sharing_is_identity_and_nothing_else() -> None:
    table = Spec(Table, n=5, d=4)
    assert table != Spec(Table, n=5, d=4) and table == table
    model = Spec(Holder, parts=[table, Spec(Head, proj=Spec(Tied, table=table))]).build()
    assert model.parts[1].proj.table is model.parts[0]
    assert len(list(model.parameters())) == 1
    assert isinstance(tiny_spec("gpt2").build(), Model)


def test_building_leaves_the_process_alone() -> None:
    """The default dtype is the whole process's: a build in one thread must not reach another."""
    wrong: list[torch.dtype] = []

    def build(dtype: torch.dtype) -> None:
        for _ in range(20):
            model = Spec(RMSNorm, d=4).build(dtype=dtype)
            wrong.extend(p.dtype for p in model.parameters() if p.dtype != dtype)
            wrong.extend([torch.ones(1).dtype] if torch.ones(1).dtype != torch.float32 else [])

    threads = [Thread(target=build, args=(dtype,)) for dtype in (torch.bfloat16, torch.float32, torch.float64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_parts_in_a_dict_are_built_and_rewritten() -> None:
    class Branches(nn.Module):
        def __init__(self, branches: dict[str, nn.Module]) -> None:
            super().__init__()
            self.branches = nn.ModuleDict(branches)

    norm = Spec(RMSNorm, d=4)
    spec = Spec(Branches, branches={"a": norm, "b": norm})
    built = spec.build()
    assert built.branches["a"] is built.branches["b"]
    wider = spec.rewrite(lambda node: node.replace(d=6) if node.part is RMSNorm else node)
    assert wider.build().branches["b"].weight.shape == (6,)

"""A model as data: a tree of parts and numbers that can be read, counted, rewritten and built.

    Spec(Attention, d_model=576, n_heads=9, n_kv_heads=3, position=Spec(Rotary, dim=64))

names a part and its arguments without making it. `build()` makes the whole tree. A `Spec` *object* that occurs twice
is built once, so sharing (a tied embedding, one rotary for all layers) is identity in the data and nothing else.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Count:
    """Parameters of a model: all of them, and those that one token meets (they differ for mixtures of experts)."""

    total: int
    active: int


class Spec:
    """A part that is not built yet: a module class and its keyword arguments, checked against its constructor.

    Frozen; compared by identity. `replace` gives a changed copy, `rewrite` a changed tree.
    """

    __slots__ = ("args", "part")
    part: type[nn.Module]
    args: Mapping[str, Any]

    def __init__(self, part: type[nn.Module], /, **args: Any) -> None:
        inspect.signature(part).bind(**args)  # TypeError on a misspelt or missing argument, where it is written
        object.__setattr__(self, "part", part)
        object.__setattr__(self, "args", MappingProxyType(args))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError("a Spec is frozen: use replace()")

    def __repr__(self) -> str:
        return f"Spec({self.part.__name__}, {', '.join(f'{k}={v!r}' for k, v in self.args.items())})"

    def replace(self, **changes: Any) -> Spec:
        """A copy with some arguments changed."""
        return Spec(self.part, **{**self.args, **changes})

    def walk(self) -> Iterator[Spec]:
        """Every distinct spec of the tree, this one first."""
        seen: set[int] = set()

        def visit(node: Any) -> Iterator[Spec]:
            if isinstance(node, Spec):
                if id(node) in seen:
                    return
                seen.add(id(node))
                yield node
                node = node.args
            if isinstance(node, Mapping):
                node = node.values()
            elif not isinstance(node, (list, tuple)):
                return
            for child in node:
                yield from visit(child)

        return visit(self)

    def rewrite(self, change: Callable[[Spec], Spec]) -> Spec:
        """The tree with `change` applied to every spec, leaves first. What was shared stays shared."""
        done: dict[int, Spec] = {}

        def visit(node: Any) -> Any:
            if isinstance(node, Spec):
                if id(node) not in done:
                    args = {name: visit(value) for name, value in node.args.items()}
                    same = all(args[name] is value for name, value in node.args.items())
                    done[id(node)] = change(node if same else Spec(node.part, **args))
                return done[id(node)]
            if isinstance(node, dict):
                new = {name: visit(child) for name, child in node.items()}
                return node if all(new[name] is child for name, child in node.items()) else new
            if isinstance(node, (list, tuple)):
                made = type(node)(visit(child) for child in node)
                return node if all(a is b for a, b in zip(made, node, strict=True)) else made
            return node

        return visit(self)

    def build(self, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Any:
        """Make the module. `device="meta"` makes shapes without memory, whatever the size of the model."""
        made: dict[int, nn.Module] = {}

        def make(node: Any) -> Any:
            if isinstance(node, Spec):
                if id(node) not in made:
                    made[id(node)] = node.part(**{name: make(value) for name, value in node.args.items()})
                return made[id(node)]
            if isinstance(node, dict):
                return {name: make(child) for name, child in node.items()}
            if isinstance(node, (list, tuple)):
                return type(node)(make(child) for child in node)
            return node

        with torch.device(device):
            module = make(self)
        # Cast afterwards: the default dtype belongs to the whole process, other threads included.
        return module.to(dtype)

    def count(self) -> Count:
        """Parameters in total and active per token; a shared part counts once."""
        model = self.build(device="meta")
        total = sum(p.numel() for p in model.parameters())
        idle = sum(m.idle_parameters() for m in model.modules() if hasattr(m, "idle_parameters"))
        return Count(total, total - idle)

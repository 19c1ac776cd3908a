"""Looking into a model from outside: watch named points, change nothing.

    with vitral.record(lm.model, "*.attn.mixer.kernel.pattern", "stack.blocks.*") as seen:
        lm.logits(ids)
    seen["stack.blocks.0.attn.mixer.kernel.pattern"]          # [B, H, T, S]

A point is any module that is called in the forward; its name is where it stands in the model. Attention patterns
exist only in the kernel that writes them out, so the fused kernels of watched patterns are swapped for it inside the
context (`seen.swapped` says which). Where the fused kernel was really at work, on more than its `few` queries, that
changes the logits in the last bits of float32; everywhere else, and watching anything else, leaves every bit as it
was.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vitral.errors import VitralError, did_you_mean
from vitral.nn import Fused


class Recording(Mapping[str, Tensor]):
    """What was seen: point name → its latest output; `all(name)` gives one for each time it fired."""

    def __init__(self) -> None:
        self.fired: dict[str, list[Tensor]] = {}
        self.swapped: tuple[str, ...] = ()
        """Names of the fused kernels that were swapped for the plain one."""

    def __getitem__(self, name: str) -> Tensor:
        return self.fired[name][-1]

    def __iter__(self) -> Iterator[str]:
        return iter(self.fired)

    def __len__(self) -> int:
        return len(self.fired)

    def all(self, name: str) -> list[Tensor]:
        """Every output of a point, in order."""
        return self.fired[name]


def points(model: nn.Module) -> dict[str, nn.Module]:
    """Everything in a model that can be watched: name → module."""
    return {name: module for name, module in model.named_modules() if name and _is_called(module)}


def _is_called(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward and not isinstance(module, (nn.ModuleList, nn.ModuleDict))


@contextmanager
def record(model: nn.Module, *patterns: str) -> Iterator[Recording]:
    """Watch the points whose names match the patterns (`*` crosses dots) while the context lasts.

    Compiled code is run eagerly meanwhile, because hooks are not seen by it.

    Raises:
        VitralError: on entering, if a pattern matches nothing; on leaving, if a matched point never fired.
    """
    if not patterns:
        raise VitralError("record was given no pattern", 'Name the points to watch, for example "stack.blocks.*"')
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    known = points(model)
    watched: dict[str, nn.Module] = {}
    for pattern in patterns:
        found = {name: module for name, module in known.items() if fnmatch.fnmatchcase(name, pattern)}
        if not found:
            raise VitralError(f"no point matches {pattern!r}", did_you_mean(pattern, known) if len(known) < 60 else "")
        watched |= found
    seen = Recording()
    undo = [_swap(model, name, seen) for name in watched if isinstance(_parent(model, name), Fused)]
    # By name, not by module: a watched kernel may just have been swapped.
    handles = [model.get_submodule(name).register_forward_hook(_keeper(seen, name)) for name in watched]
    try:
        with torch.compiler.set_stance("force_eager"):
            yield seen
    finally:
        for handle in handles:
            handle.remove()
        for owner, name, kernel in undo:
            setattr(owner, name, kernel)
    silent = [name for name in watched if name not in seen.fired]
    if silent:
        raise VitralError(
            f"{len(silent)} watched points never fired: {', '.join(silent[:3])}",
            "Run the model inside the context, by a path that reaches them",
        )


def _parent(model: nn.Module, name: str) -> nn.Module:
    return model.get_submodule(name.rpartition(".")[0])


def _swap(model: nn.Module, point: str, seen: Recording) -> tuple[nn.Module, str, nn.Module]:
    """Put a kernel that shows its pattern in the fused one's place; the point stays the same module."""
    path = point.rpartition(".")[0]
    owner, name = _parent(model, path), path.rpartition(".")[2]
    kernel: Any = getattr(owner, name)
    plain = kernel.eager()
    plain.pattern = kernel.pattern
    setattr(owner, name, plain)
    seen.swapped += (path,)
    return owner, name, kernel


def _keeper(seen: Recording, name: str) -> Any:
    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            seen.fired.setdefault(name, []).append(output.detach().clone())

    return keep

"""Looking into a model from outside: watch named points, change nothing.

    with vitral.record(lm.model, "*.attn.mixer.kernel.pattern", "stack.blocks.*") as seen:
        lm.logits(ids)
    seen["stack.blocks.0.attn.mixer.kernel.pattern"]          # [B, H, T, S]

A point is any module that is called in the forward; its name is where it stands in the model. Of a router the weights
are kept that it gave each expert, [B, T, E], 0 where an expert was not chosen.

Attention patterns exist only in the kernel that writes them out, so the fused kernels of watched patterns are swapped
for it inside the context (`seen.swapped` says which). Where the fused kernel was really at work, on more than its `few`
queries, that changes the logits in the last bits of float32; everywhere else, and watching anything else, leaves every
bit as it was.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from threading import RLock, get_ident
from typing import Any

import torch
from torch import Tensor, nn

from vitral.errors import VitralError
from vitral.nn import Fused, Routing

_one_at_a_time = RLock()  # kernels are swapped in the model itself


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

    Compiled code is run eagerly meanwhile, because hooks are not seen by it. Only what this thread computes is kept;
    another thread that wants to record waits.

    Raises:
        VitralError: on entering, if a pattern matches nothing; on leaving, if a matched point never fired.
    """
    if not isinstance(model, nn.Module):
        raise VitralError(f"record was given a {type(model).__name__}", "Give the module: record(lm.model, …)")
    if not patterns or not all(isinstance(pattern, str) for pattern in patterns):
        raise VitralError("record needs patterns of text", 'Name the points to watch, for example "stack.blocks.*"')
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    known = points(model)
    watched: dict[str, nn.Module] = {}
    for pattern in patterns:
        found = {name: module for name, module in known.items() if fnmatch.fnmatchcase(name, pattern)}
        if not found:
            close = difflib.get_close_matches(pattern, known, n=3, cutoff=0.3) or list(known)[:3]
            raise VitralError(
                f"no point matches {pattern!r:.80}", f"There are {len(known)}, such as {', '.join(close)}"
            )
        watched |= found
    seen = Recording()
    with _one_at_a_time, _hooks(model, watched, seen), torch.compiler.set_stance("force_eager"):
        yield seen
    silent = [name for name in watched if name not in seen.fired]
    if silent:
        raise VitralError(
            f"{len(silent)} watched points never fired: {', '.join(silent[:3])}",
            "Run the model inside the context, by a path that reaches them",
        )


@contextmanager
def _hooks(model: nn.Module, watched: Iterable[str], seen: Recording) -> Iterator[None]:
    """The fused kernels of watched patterns swapped, a hook on every watched point; all undone at the end."""
    undo = [_swap(model, name, seen) for name in watched if isinstance(_parent(model, name), Fused)]
    # By name, not by module: a watched kernel may just have been swapped.
    handles = [model.get_submodule(name).register_forward_hook(_keeper(seen, name, get_ident())) for name in watched]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for owner, name, kernel in undo:
            setattr(owner, name, kernel)


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


def _keeper(seen: Recording, name: str, thread: int) -> Any:
    def keep(module: nn.Module, args: Any, output: Any) -> None:
        if isinstance(output, Routing):
            output = output.dense()
        if isinstance(output, Tensor) and get_ident() == thread:
            with torch.inference_mode(False):  # an ordinary tensor, also when the model ran in inference mode
                seen.fired.setdefault(name, []).append(output.detach().clone())

    return keep

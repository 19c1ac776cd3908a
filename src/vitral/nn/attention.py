"""Attention: the mixer in which tokens look at each other.

B batch · T query length · S key length · H heads · K key-value heads · D head size

             ┌─ q ─ norm ─ encode ──────────── relate ─┐
x [B, T, d] ─┼─ k ─ norm ─ encode ─┐                    ├─ kernel ─ o ─▶ [B, T, d]
             └─ v ─────────────────┴─ cache ────────────┘
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vitral.nn.cache import Allocate
from vitral.nn.kernel import Fused
from vitral.nn.mask import Causal, Given, Kind
from vitral.nn.position import Position
from vitral.nn.step import Ready, Step


class Mixer(nn.Module):
    """What a sublayer wraps: (x, step) → y. This base keeps no cache; a mixer that does says which."""

    writes = ""
    """Name of its last matrix, whose product is added to the residual stream; none where an inner mixer has it."""

    def new_cache(self, allocate: Allocate) -> Any:
        return None


class Positioned(Mixer):
    """A mixer that works positions in: `position` under its mask `kind`."""

    position: Position
    kind: Kind

    def ready(self, step: Step) -> Ready:
        """What the position part prepared: by the stack once for all layers, or here for a part of this layer."""
        ready = step.ready.get(ready_key(self.position, self.kind))
        if ready is None:
            ready = self.position.prepare(step.positions, step.view(self.kind).key_positions)
        return ready


class Attention(Positioned):
    """Multi-head, grouped-query or multi-query attention (Vaswani et al. 2017 §3.2.2; GQA arXiv:2305.13245).

    Args:
        d_model: width of x.
        n_heads: query heads H; `n_kv_heads` K divides it (K = H multi-head, K = 1 multi-query).
        head_dim: D; need not be d_model / H.
        kind: who may see whom.
        position: the position part, shared or of this layer; None leaves q and k as they are.
        norm: makes the query norm and the key norm ([B, T, H, D] → same) from the sizes of their heads; two parts.
        bias: of q, k, v; `out_bias` of o.
        scale: of the scores; None is D^-0.5.
        kernel: how the pattern is made and applied.
    """

    writes = "o"

    def __init__(
        self,
        *,
        d_model: int,
        n_heads: int,
        n_kv_heads: int,
        head_dim: int,
        kind: Kind = Causal(),  # noqa: B008  a frozen value
        position: Position | None = None,
        q_norm: nn.Module | None = None,
        k_norm: nn.Module | None = None,
        bias: bool = False,
        out_bias: bool = False,
        scale: float | None = None,
        kernel: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if n_heads % n_kv_heads:
            raise ValueError(f"{n_heads} query heads cannot share {n_kv_heads} key-value heads evenly")
        self.head_dim = head_dim
        self.n_kv_heads = n_kv_heads
        self.kind = kind
        self.scale = head_dim**-0.5 if scale is None else scale
        self.q = nn.Linear(d_model, n_heads * head_dim, bias=bias)
        self.k = nn.Linear(d_model, n_kv_heads * head_dim, bias=bias)
        self.v = nn.Linear(d_model, n_kv_heads * head_dim, bias=bias)
        self.q_norm = q_norm or nn.Identity()
        self.k_norm = k_norm or nn.Identity()
        self.kernel = kernel or Fused()
        self.o = nn.Linear(n_heads * head_dim, d_model, bias=out_bias)
        position = position or Position()
        if position.per_layer:
            self.position = position
        else:  # held by the stack under one name; here only a reference
            object.__setattr__(self, "position", position)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        view = step.view(self.kind)
        ready = self.ready(step)
        q = self.q_norm(self.split(self.q(x))).transpose(1, 2)  # [B, H, T, D]
        k, v = self.keys_and_values(x)  # [B, K, T, D]
        q, k = self.position.encode(q, ready), self.position.encode(k, ready)
        if step.cache is not None:
            k, v = step.cache.update(k, v, view)  # [B, K, S, D]
        q, bias = self.position.relate(q, ready)
        out = self.kernel(q, k, v, view.mask, bias, self.scale)  # [B, H, T, D]
        return self.o(out.transpose(1, 2).flatten(-2))

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x [B, S, d] → k and v [B, K, S, D], not yet turned by their position."""
        return self.k_norm(self.split(self.k(x))).transpose(1, 2), self.split(self.v(x)).transpose(1, 2)

    def split(self, x: Tensor) -> Tensor:
        """[B, T, heads·D] → [B, T, heads, D], however many heads this process holds."""
        return x.unflatten(-1, (-1, self.head_dim))

    def new_cache(self, allocate: Allocate) -> Any:
        return allocate(self.kind, self.n_kv_heads, self.head_dim, self.head_dim)


class Cross(Attention):
    """Attention to a memory: queries from x, keys and values from the states of an encoder (Vaswani et al. 2017
    §3.2.3). Keys and values are computed once, when the memory comes with its states, and then read from the cache.

    Args:
        d_memory: width of the states; None is d_model.
    """

    def __init__(self, *, d_model: int, d_memory: int | None = None, bias: bool = False, **sizes: Any) -> None:
        super().__init__(d_model=d_model, kind=Given(), bias=bias, **sizes)
        if d_memory is not None and d_memory != d_model:
            self.k, self.v = (nn.Linear(d_memory, each.out_features, bias=bias) for each in (self.k, self.v))

    def forward(self, x: Tensor, step: Step) -> Tensor:
        memory = step.memory
        if memory is None:
            raise ValueError("this layer reads a memory, and the step has none")
        q = self.q_norm(self.split(self.q(x))).transpose(1, 2)  # [B, H, T, D]
        if memory.states is not None:
            k, v = self.keys_and_values(memory.states)  # [B, K, S, D]
            if step.cache is not None:
                k, v = step.cache.fill(k, v)
        else:
            k, v = step.cache.held(q.dtype)
        out = self.kernel(q, k, v, memory.mask, None, self.scale)  # [B, H, T, D]
        return self.o(out.transpose(1, 2).flatten(-2))


def ready_key(position: Position, kind: Kind) -> str:
    """Under which name a prepared position part travels in the step."""
    return f"{position.uid}/{kind.name}"

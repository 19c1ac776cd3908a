"""Position parts inside attention, and the scalings that stretch rotary embeddings.

    B batch · H heads · T query length · S key length · D head size

A position part has three moments: `prepare` once per forward, `encode` on queries and keys before the cache (so what is
stored is final), `relate` on the queries after it (a bias in post-scale units, or a change of q).

Rotary tables are computed in float32 in the order of operations that the published models were trained and are served
with; float64 would be closer to the formula and further from every checkpoint. They live outside parameters and
buffers: casting a model to bfloat16 never touches them.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vitral.nn.step import Ready

_uids = itertools.count()


class Position(nn.Module):
    """No position inside attention: the base of every position part.

    A part is shared by the layers that were given it: the stack holds and prepares it once. A part whose parameters
    belong to one layer sets `per_layer = True` and is held by its attention.
    """

    per_layer = False

    def __init__(self) -> None:
        super().__init__()
        self.uid = next(_uids)

    def prepare(self, positions: Tensor, key_positions: Tensor) -> Ready:
        """What all layers need for these queries [B|1, T] and keys [B|1, S]."""
        return ()

    def encode(self, x: Tensor, ready: Ready) -> Tensor:
        """Queries or keys [B, H, T, D] with their own position worked in."""
        return x

    def relate(self, q: Tensor, ready: Ready) -> tuple[Tensor, Tensor | None]:
        """Queries and a bias [B|1, H|1, T, S] that is added to the scaled scores."""
        return q, None


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Unscaled rotary frequencies; the base of the scalings. `factor` stretches the context by that much."""

    factor: float = 1.0
    magnitude = 1.0
    """cos and sin are multiplied by this."""

    def frequencies(self, theta: float, dim: int) -> Tensor:
        """Angle per position of each of the dim/2 pairs, float32 (Su et al., arXiv:2104.09864 §3.2.2)."""
        return 1.0 / powers(theta, dim)

    def at_length(self, theta: float, dim: int, length: Tensor) -> Tensor | None:
        """Frequencies [B|1, 1, dim/2] that depend on the length so far, or None when they do not."""
        return None


def powers(theta: float | Tensor, dim: int) -> Tensor:
    """theta^(2i/dim) for each pair i, float32 on the CPU whatever device a model is being built on."""
    return theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim)


@dataclass(frozen=True, kw_only=True)
class Linear(Scaling):
    """Position interpolation: every frequency divided by the factor (Chen et al., arXiv:2306.15595)."""

    def frequencies(self, theta: float, dim: int) -> Tensor:
        return 1.0 / powers(theta, dim) / self.factor


@dataclass(frozen=True, kw_only=True)
class DynamicNTK(Scaling):
    """theta grows with the length once it exceeds the training context (published as "dynamic NTK").

    The length is each row's own, so a row does not depend on its neighbours. Keys already in a cache keep the rotation
    they were stored with, as every known implementation has it.
    """

    original: int

    def at_length(self, theta: float, dim: int, length: Tensor) -> Tensor | None:
        stretch = (self.factor * length / self.original) - (self.factor - 1)  # [B|1]
        base = torch.where(length > self.original, theta * stretch ** (dim / (dim - 2)), theta)
        exponent = torch.arange(0, dim, 2, dtype=torch.float32, device=length.device) / dim
        return (1.0 / base[:, None] ** exponent)[:, None, :]  # [B|1, 1, dim/2]


@dataclass(frozen=True, kw_only=True)
class ByWavelength(Scaling):
    """Short wavelengths kept, long ones divided by the factor, a smooth ramp between (arXiv:2407.21783 §3.4.2)."""

    original: int
    low: float = 1.0
    high: float = 4.0

    def frequencies(self, theta: float, dim: int) -> Tensor:
        plain = 1.0 / powers(theta, dim)
        wavelength = 2 * math.pi / plain
        longest, shortest = self.original / self.low, self.original / self.high
        slow = torch.where(wavelength > longest, plain / self.factor, plain)
        ramp = (self.original / wavelength - self.low) / (self.high - self.low)
        between = (wavelength >= shortest) & (wavelength <= longest)
        return torch.where(between, (1 - ramp) * slow / self.factor + ramp * slow, slow)


@dataclass(frozen=True, kw_only=True)
class Yarn(Scaling):
    """NTK by parts with an attention temperature (Peng et al., arXiv:2309.00071 §3.2-3.4)."""

    original: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    @property
    def magnitude(self) -> float:  # type: ignore[override]
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self.temperature(self.mscale) / self.temperature(self.mscale_all_dim)
        return self.temperature(1.0)

    def temperature(self, mscale: float) -> float:
        return 1.0 if self.factor <= 1 else 0.1 * mscale * math.log(self.factor) + 1.0

    def frequencies(self, theta: float, dim: int) -> Tensor:
        def pair_turning(turns: float) -> float:
            return dim * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = pair_turning(self.beta_fast), pair_turning(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        if low == high:
            high += 0.001  # a ramp needs some width
        ramp = ((torch.arange(dim // 2, dtype=torch.float32, device="cpu") - low) / (high - low)).clamp(0, 1)
        keep = 1 - ramp  # 1 where the frequency stays as trained
        base = powers(theta, dim)
        return 1.0 / (self.factor * base) * (1 - keep) + 1.0 / base * keep


class Rotary(Position):
    """Rotary position embedding (Su et al., arXiv:2104.09864): pairs of a head's numbers turn with the position.

    Pairs are (i, i + dim/2), the half-split form of the published Hugging Face files; checkpoints in the other form
    need `Interleaved`. Only the first `dim` of a head's numbers turn.
    """

    def __init__(self, dim: int, theta: float = 10000.0, scaling: Scaling | None = None) -> None:
        super().__init__()
        if dim < 2 or dim % 2:
            raise ValueError(f"rotary needs an even dim of at least 2, got {dim}")
        self.dim = dim
        self.theta = theta
        self.scaling = scaling or Scaling()
        self.frequencies = self.scaling.frequencies(theta, dim)

    def prepare(self, positions: Tensor, key_positions: Tensor) -> Ready:
        """cos and sin [B|1, 1, T, dim/2] in float32."""
        length = torch.maximum(positions.amax(-1), key_positions.amax(-1)) + 1
        turns = self.scaling.at_length(self.theta, self.dim, length)
        if turns is None:
            turns = self.frequencies.to(positions.device)
        angle = positions[..., None].float() * turns
        return (angle.cos() * self.scaling.magnitude)[:, None], (angle.sin() * self.scaling.magnitude)[:, None]

    def encode(self, x: Tensor, ready: Ready) -> Tensor:
        cos, sin = (table.to(x.dtype) for table in ready)
        first, second, rest = x.split((self.dim // 2, self.dim // 2, x.shape[-1] - self.dim), dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)

    def extra_repr(self) -> str:
        return f"{self.dim}, theta={self.theta:g}" + (f", {self.scaling}" if type(self.scaling) is not Scaling else "")


class Interleaved(Rotary):
    """Rotary embedding whose pairs are neighbours (2i, 2i + 1), the form of the paper (arXiv:2104.09864 §3.4.2)."""

    def encode(self, x: Tensor, ready: Ready) -> Tensor:
        cos, sin = (table.to(x.dtype) for table in ready)
        turning, rest = x.split((self.dim, x.shape[-1] - self.dim), dim=-1)
        even, odd = turning[..., 0::2], turning[..., 1::2]
        turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)
        return torch.cat((turned, rest), dim=-1)

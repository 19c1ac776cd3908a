"""Known bugs put back into the parts: the tests of the parts must see every one (numbers as in tests/families)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.nn import test_embed, test_head, test_kernel, test_mask, test_norm, test_position
from vitral.nn import Eager, Embed, Fused, Head, RMSNorm, Rotary, Window, mask

Patch = pytest.MonkeyPatch


def kernel(
    *, cap: str = "before", wide: bool = True, tiled: bool = False, scaled: bool = True
) -> Callable[[Patch], None]:
    """The plain kernel once more, with a switch for each way to get it wrong."""

    def forward(self: Eager, q: Tensor, k: Tensor, v: Tensor, mask: Any, bias: Any, scale: float) -> Tensor:
        group = q.shape[1] // k.shape[1]
        k, v = (x.repeat(1, group, 1, 1) if tiled else x.repeat_interleave(group, 1) for x in (k, v))
        scores = (q * (scale if scaled else 1)) @ k.transpose(-1, -2)
        scores = scores.float() if wide and scores.dtype != torch.float64 else scores
        for moment in ("before", "after"):
            if cap == moment and self.softcap is not None:
                scores = self.softcap * torch.tanh(scores / self.softcap)
            if moment == "before":
                scores = scores + (0 if bias is None else bias) + (0 if mask is None else mask)
        return self.pattern(scores.softmax(-1).to(v.dtype)) @ v

    def sow(patch: Patch) -> None:
        patch.setattr(Eager, "forward", forward)
        patch.setattr(Fused, "forward", forward)

    return sow


def narrow_norm(patch: Patch) -> None:
    def forward(self: RMSNorm, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * self.weight

    patch.setattr(RMSNorm, "forward", forward)


def late_offset(patch: Patch) -> None:
    patch.setattr(RMSNorm, "__init__", _with(RMSNorm.__init__, lambda self: setattr(self, "offset", 1.0)))


def buffered_frequencies(patch: Patch) -> None:
    def move(self: Rotary) -> None:
        frequencies = self.__dict__.pop("frequencies")
        self.register_buffer("frequencies", frequencies)

    patch.setattr(Rotary, "__init__", _with(Rotary.__init__, move))


def interleaved(patch: Patch) -> None:
    def encode(self: Rotary, x: Tensor, ready: Any) -> Tensor:
        (cos, sin), rest = ready, x[..., self.dim :]
        even, odd = x[..., 0 : self.dim : 2], x[..., 1 : self.dim : 2]
        turned = torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)
        return torch.cat((turned, rest), -1)

    patch.setattr(Rotary, "encode", encode)


def wide_scale(patch: Patch) -> None:
    patch.setattr(Embed, "forward", lambda self, ids, step, segments=None: self.tokens(ids) * self.scale)


def uncapped(patch: Patch) -> None:
    patch.setattr(Head, "__init__", _with(Head.__init__, lambda self: setattr(self, "softcap", None)))


def wider_window(patch: Patch) -> None:
    patch.setattr(Window, "sees", lambda self, q, k: (k <= q) & (k >= q - self.size))


def infinite_mask(patch: Patch) -> None:
    def hard(seen: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, -torch.inf).unsqueeze(1)

    patch.setattr(test_kernel, "additive", hard)
    patch.setattr(mask, "additive", hard)


def _with(init: Callable[..., None], then: Callable[[Any], None]) -> Callable[..., None]:
    def both(self: Any, *args: Any, **options: Any) -> None:
        init(self, *args, **options)
        then(self)

    return both


def combination(*, mask: str = "causal", bias: int = 0, softcap: float | None = None) -> Callable[[], None]:
    return partial(test_kernel.test_every_combination, Eager, (4, 2), (7, 7), mask, bias, softcap)


HALF = partial(test_kernel.test_a_query_that_sees_nothing_gets_the_mean, Eager, torch.float16, 9)
FULL = partial(test_kernel.test_a_query_that_sees_nothing_gets_the_mean, Eager, torch.float32, 9)
MUTANTS: dict[str, tuple[Callable[[Patch], None], Callable[[], None]]] = {
    "01-interleaved": (interleaved, partial(test_position.test_rotation_is_multiplication_by_a_complex_number, 8)),
    "02-frequencies-cast": (
        buffered_frequencies,
        partial(test_position.test_casting_a_model_leaves_its_tables_alone, 4095),
    ),
    "07-window-wider": (wider_window, test_mask.test_a_window_of_four_sees_four),
    "09-scale-missing": (kernel(scaled=False), combination()),
    "10-softcap-skipped": (kernel(cap="never"), combination(softcap=2.0)),
    "10-softcap-after-mask": (kernel(cap="after"), combination(softcap=2.0)),
    "10-final-softcap-skipped": (uncapped, test_head.test_transform_bias_scale_and_softcap_in_their_order),
    "11-one-plus-weight": (late_offset, partial(test_norm.test_the_formulas, 1.0, 1e-6)),
    "11-norm-in-half": (narrow_norm, partial(test_norm.test_half_precision_is_rounded_once, RMSNorm)),
    "12-scale-not-cast": (wide_scale, test_embed.test_the_scale_is_a_number_of_the_models_dtype),
    "19-infinite-mask": (infinite_mask, FULL),
    "20-groups-tiled": (kernel(tiled=True), combination()),
    "23-softmax-in-half": (kernel(wide=False), HALF),
    "23-norm-overflows": (narrow_norm, test_norm.test_float16_does_not_overflow),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_tests_see(name: str, monkeypatch: Patch) -> None:
    sow, check = MUTANTS[name]
    check()
    with monkeypatch.context() as patch:
        sow(patch)
        with pytest.raises(AssertionError):
            check()


def test_the_kernel_used_for_mutants_is_right_when_no_switch_is_thrown(monkeypatch: Patch) -> None:
    kernel()(monkeypatch)
    for check in (combination(), combination(mask="rows", bias=4, softcap=2.0), HALF, FULL):
        check()

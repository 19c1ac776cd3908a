"""Rotary parts of models whose local and global layers turn at different speeds."""

from __future__ import annotations

from vitral.errors import CheckpointError
from vitral.families.common.config import Config
from vitral.nn import Spec

LOCAL, EVERYWHERE = "sliding_attention", "full_attention"


def rotaries(c: Config, head_dim: int, context: int, bases: tuple[float, float] = (1e4, 1e6)) -> tuple[Spec, Spec, int]:
    """The rotary parts of local and of global layers, and the context.

    Newer files hold an object for each kind of layer under `rope_parameters`; older ones hold the two bases side by
    side, and one scaling, which is the global layers'.
    """
    older = c.table("rope_scaling")
    here = {LOCAL: c.number("rope_local_base_freq", bases[0]), EVERYWHERE: c.number("rope_theta", bases[1])}
    said = c.table("rope_parameters") or {LOCAL: {}, EVERYWHERE: older}
    if not said.keys() <= here.keys() or not all(isinstance(each or {}, dict) for each in said.values()):
        raise CheckpointError("config.json: 'rope_parameters' must hold an object for each kind of layer")
    if older and said.get(EVERYWHERE) != older:
        raise CheckpointError("config.json has both 'rope_scaling' and 'rope_parameters'", "Keep one of them")

    def rotary(kind: str) -> tuple[Spec, int]:
        rope = Config({"rope_parameters": said.get(kind) or {}}, c.family)
        return rope.rotary(head_dim, context, here[kind])

    return rotary(LOCAL)[0], *rotary(EVERYWHERE)

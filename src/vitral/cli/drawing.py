"""A model drawn in text, from its spec alone: whatever parts it is made of, no part is known here by name.

  ids
   │      tokens     Table(n 49152, d 576)
   │
30 × block, layers 0 to 29
   │
   ├──▶ attn
   │      pre        RMSNorm(d 576, eps 1e-05)
   │      mixer      Attention(d_model 576, n_heads 9, n_kv_heads 3, head_dim 64)
   │                   position Rotary(dim 64, theta 100000)
  (+)◀──
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from itertools import groupby
from typing import Any

from vitral.nn import Spec

PATH = "     │"
INLINE = 84
"""A part whose arguments fit this many characters stays on one line."""


def draw(spec: Spec) -> str:
    """The whole model, ids at the top; equal neighbouring blocks are drawn once."""
    return "\n".join(_model(spec))


def _model(spec: Spec) -> Iterator[str]:
    args, stack = spec.args, spec.args["stack"].args
    yield "    ids"
    for name, part in args["embed"].args.items():
        if part is not None:
            yield from _part(name, part)
    first = 0
    for _, run in groupby(stack["blocks"], key=repr):
        blocks = list(run)
        last = first + len(blocks) - 1
        yield PATH
        yield f"{len(blocks):>4} × block, " + (f"layers {first} to {last}" if last > first else f"layer {first}")
        yield from _block(blocks[0])
        first = last + 1
    yield PATH
    for name, part in (("norm", stack.get("norm")), *((n, args.get(n)) for n in ("head", "pooler", "classifier"))):
        if part is not None:
            yield from _part(name, part)
    yield "     ▼"
    yield "   logits" if args.get("head") is not None else "hidden states"


def _block(block: Spec) -> Iterator[str]:
    """The residual path runs down the left; each sublayer leaves it and is added back."""
    for name, sublayer in block.args.items():
        yield PATH
        yield f"     ├──▶ {name}"
        for slot in ("pre", "mixer", "post"):
            if sublayer.args.get(slot) is not None:
                yield from _part(slot, sublayer.args[slot])
        yield "    (+)◀──"
        if sublayer.args.get("after") is not None:
            yield from _part("after", sublayer.args["after"])


def _part(name: str, value: Any) -> Iterator[str]:
    """One part; when it is long, the parts inside it go on lines of their own."""
    whole = describe(value)
    if len(whole) <= INLINE or not isinstance(value, Spec):
        yield f"{PATH}      {name:<10} {whole}"
        return
    inner = {key: arg for key, arg in value.args.items() if _has_parts(arg)}
    plain = {key: arg for key, arg in value.args.items() if key not in inner}
    yield f"{PATH}      {name:<10} {_call(value.part.__name__, plain)}"
    for key, arg in inner.items():
        for each in arg if isinstance(arg, (list, tuple)) else [arg]:
            yield f"{PATH}                   {key} {describe(each)}"


def describe(value: Any) -> str:
    """A part and its arguments in one line: `Attention(n_heads 9, position Rotary(dim 64))`."""
    if isinstance(value, Spec):
        return _call(value.part.__name__, value.args)
    if is_dataclass(value) and not isinstance(value, type):
        return _call(type(value).__name__, {field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(describe(each) for each in value[:4]) + (", …]" if len(value) > 4 else "]")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _call(name: str, args: Any) -> str:
    shown = (
        key if arg is True else f"{key} {describe(arg)}"
        for key, arg in args.items()
        if arg is not None and arg is not False
    )
    inside = ", ".join(shown)
    return f"{name}({inside})" if inside else name


def _has_parts(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_has_parts(each) for each in value)
    return isinstance(value, Spec) or (is_dataclass(value) and not isinstance(value, type))

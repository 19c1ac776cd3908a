"""A model drawn in text, from its spec alone.

  ids
   │      tokens     Table(n 49152, d 576)
   │
30 × block, layers 0 to 29
   │
   ├──▶ attn
   │      pre        RMSNorm(d 576, eps 1e-05)
   │      mixer      Attention(d_model 576, n_heads 9, n_kv_heads 3, head_dim 64)
   │          position   Rotary(dim 64, theta 100000)
  (+)◀──

Models within the model (an encoder, a tower for pixels) come first, each under its name. Layers that take turns are
drawn once as a group.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from itertools import groupby
from typing import Any

from vitral.nn import Cross, Embed, Patches, Spec, Stack

PATH = "     │"
WIDTH = 105
"""A part that fits within these columns stays on one line."""
PERIOD = 12
"""The most layers that take turns."""
INPUTS = {"ids": Embed, "pixels": Patches}


def draw(spec: Spec) -> str:
    """The whole model, its inputs at the top; what occurs many times in a row is drawn once."""
    return "\n".join(_lines(spec))


def models(spec: Spec, path: str = "") -> Iterator[tuple[str, Spec]]:
    """Every part of a tree that holds stacks, with the path to it, the inner ones first; the outermost has no path."""
    own = stacks(spec)
    for name, value in spec.args.items():
        if isinstance(value, Spec) and name not in own:
            yield from models(value, f"{path}.{name}".strip("."))
    if own:
        yield path, spec


def stacks(spec: Spec) -> dict[str, Spec]:
    """The arguments of a part that are stacks of blocks."""
    return {name: arg for name, arg in spec.args.items() if isinstance(arg, Spec) and issubclass(arg.part, Stack)}


def _lines(spec: Spec) -> Iterator[str]:
    found = list(models(spec))
    for number, (path, model) in enumerate(found):
        if len(found) > 1:
            yield from ([""] if number else [])
            yield f"── {path or ('decoder' if found[0][0] == 'encoder' else 'model')} ──"
        yield from _model(model, path) if "stack" in model.args else _tower(model, path)
    if not stacks(spec):  # towers that meet at the end
        yield from ("", f"── {spec.part.__name__} ──")
        for name, value in spec.args.items():
            if value is not None and not (isinstance(value, Spec) and stacks(value)):
                yield from _part(name, value)
        yield from ("     ▼", "   logits")


def _model(model: Spec, path: str) -> Iterator[str]:
    args, stack = model.args, model.args["stack"].args
    parts = list(args["embed"].walk())
    yield f"    {' and '.join(n for n, kind in INPUTS.items() if any(issubclass(p.part, kind) for p in parts))}"
    inner, plain = _split(args["embed"])
    if plain:
        yield from _part("embed", args["embed"].replace(**dict.fromkeys(inner)))
    for name, part in inner.items():
        yield from _part(name, part)
    if args.get("vision") is not None and not stacks(args["vision"]):
        yield from _part("vision", args["vision"])
    yield from _blocks(stack["blocks"])
    ends = {"norm": stack.get("norm"), **{n: args.get(n) for n in ("head", "pooler", "classifier", "score")}}
    for name, part in ends.items():
        if part is not None:
            yield from _part(name, part)
    for draft in args.get("drafts") or ():
        yield from _part("draft", draft)
    answers = args.get("head") is not None or args.get("classifier") is not None
    yield from ("     ▼", "   logits") if answers else _end(path)


def _tower(tower: Spec, path: str) -> Iterator[str]:
    """A part with stacks of its own, in the order in which its constructor names what it is made of."""
    yield "    pixels"
    inner, plain = _split(tower)
    yield f"{PATH}      {_call(tower.part.__name__, plain)}"
    for name, part in inner.items():
        if name in stacks(tower):
            yield from (PATH, f"{PATH}  {name}")
            yield from _blocks(part.args["blocks"])
            yield from _part("norm", part.args["norm"]) if part.args.get("norm") is not None else ()
        else:
            yield from _part(name, part)
    yield from _end(path)


def _end(path: str) -> tuple[str, str]:
    """What a model without a head ends in; an encoder's, and an image tower's, is what cross-attention reads."""
    return "     ▼", "hidden states" + (" ═══▶ memory" if path in ("encoder", "vision") else "")


def _blocks(blocks: Sequence[Spec]) -> Iterator[str]:
    first = 0
    for group, times in turns(blocks):
        last = first + len(group) * times - 1
        yield PATH
        what = "block" if len(group) == 1 else f"{len(group)} blocks in turn"
        yield f"{times:>4} × {what}, " + (f"layers {first} to {last}" if last > first else f"layer {first}")
        yield from _block(group[0]) if len(group) == 1 else _in_turn(group)
        first = last + 1
    yield PATH


def turns(blocks: Sequence[Spec]) -> list[tuple[list[Spec], int]]:
    """Blocks as (those that take turns, how often): 30 equal ones are one that comes 30 times."""
    alike = [repr(block) for block in blocks]
    found, at = [], 0
    while at < len(blocks):
        best = (1, 1)
        for period in range(1, min(PERIOD, len(blocks) - at) + 1):
            times = 1
            while alike[at : at + period] == alike[at + period * times : at + period * (times + 1)]:
                times += 1
            if period * times > best[0] * best[1] and (period == 1 or times > 1):
                best = (period, times)
        found.append((list(blocks[at : at + best[0]]), best[1]))
        at += best[0] * best[1]
    return found


def _in_turn(blocks: Sequence[Spec]) -> Iterator[str]:
    for _, run in groupby(blocks, key=repr):
        equal = list(run)
        yield PATH
        yield f"{PATH} {len(equal)} × block"
        yield from _block(equal[0])


def _block(block: Spec) -> Iterator[str]:
    """The residual path runs down the left; each sublayer leaves it and is added back."""
    for name, sublayer in block.args.items():
        mixer = sublayer.args["mixer"]
        yield PATH
        yield f"     ├──▶ {name}" + (" ◀═══ memory" if issubclass(mixer.part, Cross) else "")
        for slot in ("pre", "mixer", "post"):
            if sublayer.args.get(slot) is not None:
                yield from _part(slot, sublayer.args[slot])
        yield "    (+)◀──"
        for slot, part in sublayer.args.items():
            if slot not in ("pre", "mixer", "post") and part is not None:
                yield from _part(slot, part)


def _part(name: str, value: Any, prefix: str = f"{PATH}      ") -> Iterator[str]:
    """One part; when it is long, the parts inside it go on lines of their own."""
    label = f"{prefix}{name:<10} "
    whole = f"{label}{describe(value)}"
    if len(whole) <= WIDTH or not isinstance(value, Spec):
        yield whole
        return
    inner, plain = _split(value)
    yield f"{label}{_call(value.part.__name__, plain)}"
    for key, arg in inner.items():
        for each in arg if isinstance(arg, (list, tuple)) else [arg]:
            yield from _part(key, each, f"{prefix}    ")


def describe(value: Any) -> str:
    """A part and its arguments in one line: `Attention(n_heads 9, position Rotary(dim 64))`."""
    if isinstance(value, Spec):
        return _call(value.part.__name__, {} if stacks(value) else value.args)
    if is_dataclass(value) and not isinstance(value, type):
        return _call(type(value).__name__, {field.name: getattr(value, field.name) for field in fields(value)})
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(describe(each) for each in value[:4]) + (", …]" if len(value) > 4 else "]")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _call(name: str, args: Mapping[str, Any]) -> str:
    shown = (
        key if arg is True else f"{key} {describe(arg)}"
        for key, arg in args.items()
        if arg is not None and arg is not False
    )
    inside = ", ".join(shown)
    return f"{name}({inside})" if inside else name


def _split(part: Spec) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arguments of a part that hold parts, and those that are plain values; both without what says nothing."""
    given = {name: arg for name, arg in part.args.items() if arg is not None and arg is not False}
    inner = {name: arg for name, arg in given.items() if _has_parts(arg)}
    return inner, {name: arg for name, arg in given.items() if name not in inner}


def _has_parts(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_has_parts(each) for each in value)
    return isinstance(value, Spec) or (is_dataclass(value) and not isinstance(value, type))

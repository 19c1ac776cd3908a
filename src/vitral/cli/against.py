"""What lies between two models: which figures, config keys and parts differ. For `vitral show A --against B`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from typing import Any

from vitral.cli import common
from vitral.cli.drawing import describe, models, stacks
from vitral.nn import Spec

FIGURES = ("parameters", "active_parameters", "context")
BYTES = ("weights_bytes", "kv_bytes_per_token", "kv_bytes_full_context", "kv_bytes_per_source_token")
DTYPE = "bfloat16"
WIDTHS = ("d", "d_model", "in_features")
"""Arguments that are the width of the stream: where all of them change alike, that is one change."""
WIDE = 90
"""A change of more characters takes two lines."""
SILENT = ("architectures", "transformers_version", "torch_dtype", "dtype")


@dataclass(frozen=True)
class Part:
    """A part of a tree: the name of its class, its plain arguments, and in `whole` the parts inside it too."""

    kind: str
    args: Mapping[str, Any]
    whole: str


Change = tuple[str, Any, Any]
"""(path, before, after): numbers, or parts in words; None where there is none."""


def compare(before: dict[str, Any], after: dict[str, Any], specs: tuple[Spec, Spec]) -> dict[str, Any]:
    """The difference of two models by their measures (see `show.measure`) and specs; pairs are (before, after)."""
    figures = {key: (before[key], after[key]) for key in FIGURES}
    figures |= {key: (before[key].get(DTYPE, 0), after[key].get(DTYPE, 0)) for key in BYTES}
    return {
        "model": after["model"],
        "against": before["model"],
        "figures": figures,
        "config": _configs(before["config"], after["config"]),
        "parts": [{"part": path, "before": a, "after": b} for path, a, b in changes(*specs)],
    }


def show(found: dict[str, Any]) -> None:
    """Print a comparison."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("", found["against"], found["model"], "×"):
        table.add_column(title, justify="left" if not title else "right")
    for key, (a, b) in found["figures"].items():
        if a or b:
            say = common.human_bytes if key in BYTES else common.human_count if "parameters" in key else str
            name = key.replace("_", " ") + (f" ({DTYPE})" if key in BYTES else "")
            table.add_row(name, say(a), say(b), f"{b / a:.3g}" if a and b else "")
    common.console().print(table)
    for title, rows in (
        ("parts", [(row["part"], row["before"], row["after"]) for row in found["parts"]]),
        ("config", [(key, *pair) for key, pair in found["config"].items()]),
    ):
        print(f"\n{title}:" if rows else f"\n{title}: the same")
        longest = max((len(row[0]) for row in rows), default=0)
        for name, a, b in rows:
            said = _arrow(a, b)
            if len(said) > WIDE:
                said = f"- {describe(a)}\n  {'':<{longest}}  + {describe(b)}" if None not in (a, b) else said
            print(f"  {name:<{longest}}  {said}")


def _arrow(before: Any, after: Any) -> str:
    if before is None:
        return f"+ {describe(after)}"
    return f"- {describe(before)}" if after is None else f"{describe(before)} → {describe(after)}"


def _configs(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Keys with another value; those that only one of them has, too, where both configs are of one type."""
    same = before.get("model_type") == after.get("model_type")
    keys = dict.fromkeys((*before, *after)) if same else [key for key in before if key in after]
    pairs = {key: (before.get(key), after.get(key)) for key in keys if key[0] != "_" and key not in SILENT}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def changes(before: Spec, after: Spec) -> list[Change]:
    """Every part that differs by its path; where one is missing or of another class, what lies inside goes unsaid."""
    old, new = (dict(models(spec)) for spec in (before, after))
    found: list[Change] = []
    for path in dict.fromkeys((*old, *new)):
        if path in old and path in new:
            found += [(f"{path}.{where}".strip("."), a, b) for where, a, b in _between(old[path], new[path])]
        else:
            found.append((path or "model", _summary(old.get(path)), _summary(new.get(path))))
    if not stacks(before) and not stacks(after):  # towers: what joins them
        found += _differences(_frame(before), _frame(after))
    return found


def _summary(model: Spec | None) -> str | None:
    if model is None:
        return None
    blocks = [block for stack in stacks(model).values() for block in stack.args["blocks"]]
    return f"{len(blocks)} × block of {' and '.join(blocks[0].args)}"


def _between(old: Spec, new: Spec) -> list[Change]:
    """The changes within one model, from its inputs to its answers."""
    frame = _differences(_frame(old), _frame(new))
    found = first = [change for change in frame if change[0].startswith("embed")]
    for name in [name for name in stacks(old) if name in stacks(new)]:
        prefix = "" if name == "stack" else f"{name}."
        a, b = (stacks(spec)[name].args for spec in (old, new))
        depths = len(a["blocks"]), len(b["blocks"])
        changed = [("layers", *depths)] if depths[0] != depths[1] else []
        norms = (dict(_flat("norm", stack.get("norm"))) for stack in (a, b))
        changed += [*_blocks(a["blocks"], b["blocks"]), *_differences(*norms)]
        found = [*found, *((prefix + path, x, y) for path, x, y in changed)]
    return _one_width([*found, *(change for change in frame if change not in first)])


def _frame(spec: Spec) -> dict[str, Part]:
    """All parts but the stacks and what holds stacks of its own."""
    held = [name for name, arg in spec.args.items() if isinstance(arg, Spec) and stacks(arg)]
    return dict(_flat("", spec.replace(**dict.fromkeys((*stacks(spec), *held)))))


def _blocks(old: Sequence[Spec], new: Sequence[Spec]) -> list[Change]:
    """Different blocks compared in the order they come; where one side has fewer kinds of them, with its last."""
    kinds = [list({repr(block): block for block in blocks}.values()) for blocks in (old, new)]
    most = max(len(blocks) for blocks in kinds)
    told: set[str] = set()
    found: list[Change] = []
    for number in range(most):
        pair = [dict(_flat("block", blocks[min(number, len(blocks) - 1)])) for blocks in kinds]
        for path, a, b in _differences(*pair):
            if str((path, a, b)) not in told:
                told.add(str((path, a, b)))
                found.append((path if most == 1 else f"block {number + 1}{path.removeprefix('block')}", a, b))
    return found


def _flat(path: str, value: Any) -> Iterator[tuple[str, Part]]:
    """Every part of a tree by its path. Arguments that were left out count with their default."""
    if value is None:
        return
    if not isinstance(value, Spec):
        yield path, Part(describe(value), {}, describe(value))
        return
    given = {p.name: p.default for p in inspect.signature(value.part).parameters.values() if p.default is not p.empty}
    args = {**given, **value.args}
    inner = {name: arg for name, arg in args.items() if isinstance(arg, Spec) or is_dataclass(arg)}
    if path:
        plain = {name: arg for name, arg in args.items() if name not in inner and not isinstance(arg, (list, tuple))}
        yield path, Part(value.part.__name__, plain, describe(value))
    for name, arg in inner.items():
        yield from _flat(f"{path}.{name}".strip("."), arg)


def _differences(old: Mapping[str, Part], new: Mapping[str, Part]) -> list[Change]:
    found: list[Change] = []
    told: list[str] = []
    for path in dict.fromkeys((*old, *new)):
        if any(path.startswith(f"{above}.") for above in told):
            continue
        a, b = old.get(path), new.get(path)
        if a is not None and b is not None and a.kind == b.kind:
            keys = dict.fromkeys((*a.args, *b.args))
            found += [(f"{path}.{key}", a.args.get(key), b.args.get(key)) for key in keys if _differ(a, b, key)]
        else:
            told.append(path)
            found.append((path, a and a.whole, b and b.whole))
    return found


def _differ(a: Part, b: Part, key: str) -> bool:
    return bool((a.args.get(key) or None) != (b.args.get(key) or None))


def _one_width(found: list[Change]) -> list[Change]:
    """The change of the stream's width told once, where it is one."""
    widths = {(a, b) for path, a, b in found if path.rpartition(".")[2] in WIDTHS}
    if len(widths) != 1:
        return found
    (before, after), *_ = widths
    return [("width", before, after), *(each for each in found if each[0].rpartition(".")[2] not in WIDTHS)]

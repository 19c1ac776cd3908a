"""`vitral show MODEL`: what a model is made of and what it will cost, without reading its weights."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitral.cli import common
from vitral.cli.common import Json
from vitral.errors import VitralError

if TYPE_CHECKING:
    from vitral.nn import Spec

EXAMPLES = (
    "vitral show smollm2-135m-instruct",
    "vitral show llama3/3-8b --against llama2/7b",
    "vitral show ./my-model --json",
)
WIDTHS = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "Q8_0": 34 / 32}
"""Bytes a parameter takes; a Q8_0 block is 32 int8 numbers and one float16 scale."""
Target = Annotated[
    str, typer.Argument(help="As in `generate`, or a published preset such as llama3/3.2-1b.", metavar="MODEL")
]


@dataclass(frozen=True, kw_only=True)
class Described:
    """A model before its weights: from a preset, or from the files of a checkpoint."""

    name: str
    family: Any
    config: dict[str, Any]
    spec: Spec
    licence: str = ""
    """Of these weights; "" leaves the family's."""


def verb(
    model: Target,
    against: Annotated[str | None, typer.Option(help="Print what changed from this model, in place of it all.")] = None,
    json: Json = False,
) -> None:
    """Draw the block, count the parameters part by part, and estimate memory; or tell two models apart."""
    if _is_family(model) and against is None:
        from vitral.cli import families

        families.verb(model, json)
        return
    described = describe(model)
    facts = measure(described)
    if against is not None:
        from vitral.cli import against as comparison

        before = describe(against)
        found = comparison.compare(measure(before), facts, (before.spec, described.spec))
        common.emit(found) if json else comparison.show(found)
        return
    if json:
        common.emit(facts)
    else:
        _print(described, facts)


def _print(described: Described, facts: dict[str, Any]) -> None:
    from vitral.cli.drawing import draw

    out = common.console()
    counted = f"{common.human_count(facts['parameters'])} parameters"
    if facts["active_parameters"] != facts["parameters"]:
        counted += f", of which a token meets {common.human_count(facts['active_parameters'])}"
    print(f"{described.name}: {facts['title']}, {facts['kind']}, {counted}")
    print(f"licence: {facts['licence']}; context: {facts['context']} tokens\n")
    print(draw(described.spec))
    print()
    out.print(parts_table(facts))
    out.print()
    out.print(memory_table(facts))
    print("\nmind:")
    for trap in facts["traps"]:
        print(f"  {trap}")
    print("\nconfig:")
    for key, value in sorted(described.config.items()):
        if not key.startswith("_"):
            print(f"  {key}: {value}")


def _is_family(name: str) -> bool:
    """Whether it names a family as a whole, and nothing that lies here."""
    from vitral.families import families

    return name in families() and not Path(name).exists()


def describe(model: str) -> Described:
    """Read a preset, or a checkpoint's config and tensor names; no weight is read and nothing is downloaded."""
    from vitral.families import families, family, preset_config, spec

    head, _, preset = model.partition("/")
    if preset and head in families() and not Path(model).exists():
        licence = family(head).CARD.licence_of(preset)
        return Described(
            name=model, family=family(head), config=preset_config(model), spec=spec(model), licence=licence
        )
    from vitral.source import Source
    from vitral.weights.load import read_spec

    require_here(model)
    source = Source.find(model)
    found, config, tree = read_spec(source.checkpoint)
    return Described(name=source.name, family=found, config=config, spec=tree, licence=source.licence or "unknown")


def require_here(model: str) -> None:
    """A known model must have been pulled: to show one is no reason to fetch it. Other names are left to the loader."""
    from vitral.weights import catalogue, hub

    here = {row.name: row.path for row in catalogue.list_models()}
    if Path(model).exists() or here.get(model) or not (model in here or hub.is_repo_id(model)):
        return
    raise VitralError(f"{model} is not on this machine", f"Fetch it first: vitral pull {model}", param="model")


def measure(described: Described) -> dict[str, Any]:
    """Counts and bytes, from the model on the meta device (shapes without memory)."""
    module = described.spec.build(device="meta")
    parts: dict[str, int] = {}
    for name, parameter in module.named_parameters():
        part = re.sub(r"\.\d+\.", ".*.", name).rpartition(".")[0] or name
        parts[part] = parts.get(part, 0) + parameter.numel()
    total = sum(parts.values())
    card = described.family.CARD
    token, full, source = cached_numbers(module)

    def in_bytes(numbers: int, dtypes: Sequence[str] = ("float32", "bfloat16")) -> dict[str, int]:
        return {dtype: round(numbers * WIDTHS[dtype]) for dtype in dtypes}

    return {
        "model": described.name,
        "family": described.family.__name__.rpartition(".")[2],
        "title": card.title,
        "kind": card.kind,
        "licence": described.licence,
        "traps": card.traps,
        "context": module.context,
        "parameters": total,
        "active_parameters": described.spec.count().active,
        "parts": parts,
        "weights_bytes": in_bytes(total, tuple(WIDTHS)),
        "kv_bytes_full_context": in_bytes(full),
        "kv_bytes_per_token": in_bytes(token),
        "kv_bytes_per_source_token": in_bytes(source),
        "config": described.config,
    }


def cached_numbers(module: Any) -> tuple[int, int, int]:
    """How many numbers a cache holds: for each token (while no window has wrapped), for a text that fills the context,
    and for each state of the memory that cross-attention reads."""
    import torch

    from vitral.nn import Given, KeyValue

    held: list[tuple[Any, int]] = []

    def allocate(kind: Any, heads: int, key_size: int, value_size: int) -> Any:
        held.append((kind, heads * (key_size + value_size)))
        return KeyValue(kind, *(torch.empty(1, heads, 1, size, device="meta") for size in (key_size, value_size)))

    if module.generates:
        module.stack.new_cache(allocate)
    own = [(kind, numbers) for kind, numbers in held if not isinstance(kind, Given)]
    token = sum(numbers for _, numbers in own)
    full = sum(numbers * kind.capacity(module.context, 1) for kind, numbers in own)
    return token, full, sum(numbers for _, numbers in held) - token


def parts_table(facts: dict[str, Any]) -> Any:
    """Parameters by part; * stands for every layer."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title, side in (("part", "left"), ("parameters", "right"), ("share", "right")):
        table.add_column(title, justify=side)  # type: ignore[arg-type]
    for part, count in facts["parts"].items():
        table.add_row(part, f"{count:,}", f"{100 * count / facts['parameters']:.1f}%")
    table.add_row("total", f"{facts['parameters']:,}", "")
    return table


def memory_table(facts: dict[str, Any]) -> Any:
    """What the weights take by dtype, and the cache by token; a column that is empty throughout is left out."""
    from rich.table import Table

    columns = {
        "weights": facts["weights_bytes"],
        "cache a token": facts["kv_bytes_per_token"],
        f"cache at {facts['context']} tokens": facts["kv_bytes_full_context"],
        "cache a source token": facts["kv_bytes_per_source_token"],
    }
    columns = {title: column for title, column in columns.items() if any(column.values())}
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("memory", *columns):
        table.add_column(title, justify="left" if title == "memory" else "right")
    for dtype in WIDTHS:
        cells = (column.get(dtype) for column in columns.values())
        table.add_row(dtype, *(common.human_bytes(value) if value else "" for value in cells))
    return table

"""`vitral show MODEL`: what a model is made of and what it will cost, without reading its weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitral.cli import common
from vitral.cli.common import Json
from vitral.errors import VitralError

if TYPE_CHECKING:
    from vitral.nn import Spec

EXAMPLES = ("vitral show smollm2-135m-instruct", "vitral show llama3/3.1-405b", "vitral show ./my-model --json")
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


def verb(model: Target, json: Json = False) -> None:
    """Draw the block, count the parameters part by part, and estimate memory."""
    described = describe(model)
    facts = measure(described)
    if json:
        common.emit(facts)
        return
    from vitral.cli.drawing import draw

    out = common.console()
    print(f"{described.name}: {facts['title']}, {facts['kind']}, {common.human_count(facts['parameters'])} parameters")
    print(f"licence: {facts['licence']}; context: {facts['context']} tokens\n")
    print(draw(described.spec))
    print()
    out.print(parts_table(facts))
    out.print()
    out.print(memory_table(facts))
    print("\nconfig:")
    for key, value in sorted(described.config.items()):
        if not key.startswith("_"):
            print(f"  {key}: {value}")


def describe(model: str) -> Described:
    """Read a preset, or a checkpoint's config and tensor names; no weight is read and nothing is downloaded."""
    from vitral.families import families, family, preset_config, spec

    head, _, preset = model.partition("/")
    if preset and head in families() and not Path(model).exists():
        licence = family(head).CARD.licence
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
        part = re.sub(r"\.\d+\.", ".*.", name).rpartition(".")[0]
        parts[part] = parts.get(part, 0) + parameter.numel()
    held: list[int] = []

    def allocate(kind: Any, heads: int, key_size: int, value_size: int) -> Any:
        held.append(heads * (key_size + value_size) * kind.capacity(module.context, 1))

    if module.generates:
        module.stack.new_cache(allocate)
    total = sum(parts.values())
    count = described.spec.count()
    card = described.family.CARD
    return {
        "model": described.name,
        "family": described.family.__name__.rpartition(".")[2],
        "title": card.title,
        "kind": card.kind,
        "licence": described.licence,
        "context": module.context,
        "parameters": total,
        "active_parameters": count.active,
        "parts": parts,
        "weights_bytes": {dtype: round(total * width) for dtype, width in WIDTHS.items()},
        "kv_bytes_full_context": {dtype: round(sum(held) * WIDTHS[dtype]) for dtype in ("float32", "bfloat16")},
        "kv_bytes_per_token": {
            dtype: round(sum(held) * WIDTHS[dtype] / module.context) for dtype in ("float32", "bfloat16")
        },
        "config": described.config,
    }


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
    """What the weights take by dtype, and the cache by token."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("memory", "weights", "cache a token", f"cache at {facts['context']} tokens"):
        table.add_column(title, justify="left" if title == "memory" else "right")
    for dtype, size in facts["weights_bytes"].items():
        token, full = facts["kv_bytes_per_token"].get(dtype), facts["kv_bytes_full_context"].get(dtype)
        cells = [common.human_bytes(value) if value else "" for value in (size, token, full)]
        table.add_row(dtype, *cells)
    return table

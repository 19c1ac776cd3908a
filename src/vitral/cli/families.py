"""`vitral families`: the timeline of the architectures vitral builds, and what is known of each."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vitral.cli import common
from vitral.cli.common import Json

EXAMPLES = ("vitral families", "vitral families llama3", "vitral families gpt4 --json")
MANY = 6
"""More presets than this are told by the first and the last."""


def verb(
    name: Annotated[str | None, typer.Argument(help="Only this family: its card and the size of every preset.")] = None,
    json: Json = False,
) -> None:
    """The timeline: who published what, in which sizes, under which licence; and which families are certified here."""
    from vitral.families import families

    rows = [describe(each) for each in ([name] if name else families())]
    if name:
        rows[0]["parameters"], rows[0]["active_parameters"] = sizes(name)
    if json:
        common.emit(rows)
    elif name:
        _card(rows[0])
    else:
        common.console().print(_timeline(rows))


def describe(name: str) -> dict[str, Any]:
    """The card of a family, the names of its presets, and whether it is certified."""
    from dataclasses import asdict

    from vitral.families import family, presets
    from vitral.families.common.certificates import status

    return {"name": name, **asdict(family(name).CARD), "presets": presets(name), "certificate": status(name)}


def sizes(name: str) -> tuple[dict[str, int], dict[str, int]]:
    """Parameters of every preset: in all, and those that one token meets."""
    from vitral.families import presets, spec

    counts = {preset: spec(f"{name}/{preset}").count() for preset in presets(name)}
    return {p: count.total for p, count in counts.items()}, {p: count.active for p, count in counts.items()}


def _timeline(rows: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("year", "family", "who", "kind", "sizes", "licence", "certificate"):
        table.add_column(title, overflow="fold", no_wrap=title in ("year", "family"))
    for row in rows:
        presets = row["presets"]
        told = "  ".join(presets) if len(presets) <= MANY else f"{presets[0]} … {presets[-1]}  ({len(presets)})"
        kind, cells = row["kind"], (told or "not published", row["licence"], row["certificate"])
        table.add_row(str(row["year"]), row["name"], row["org"], kind, *cells)
    return table


def _card(row: dict[str, Any]) -> None:
    print(f"{row['title']} ({row['org']}, {row['year']}), {row['kind']}: {row['idea']}.\n")
    lists = {"published": row["facts"], "not published": [", ".join(row["unpublished"])], "mind": row["traps"]}
    lines = [("source", row["source"]), ("licence", row["licence"]), ("certificate", row["certificate"])]
    lines += [("recipe", row["recipe"]), ("open stand-in", row["stand_in"])]
    lines += [(title, each) for title, entries in lists.items() for each in entries]
    for title, text in lines:
        if text:
            print(f"{title + ':':<15} {text}")
    if not row["presets"]:
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    mixture = row["parameters"] != row["active_parameters"]
    for title in ("preset", "parameters", *(["a token meets"] if mixture else []), "licence"):
        table.add_column(title, justify="left" if title in ("preset", "licence") else "right")
    for preset in row["presets"]:
        counts = [row["parameters"][preset], *([row["active_parameters"][preset]] if mixture else [])]
        licence = row["licences"].get(preset, row["licence"])
        table.add_row(f"{row['name']}/{preset}", *(common.human_count(count) for count in counts), licence)
    print()
    common.console().print(table)

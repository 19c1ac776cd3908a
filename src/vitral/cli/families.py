"""`vitral families`: which architectures vitral builds, and the published presets of each."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from vitral.cli import common
from vitral.cli.common import Json

EXAMPLES = ("vitral families", "vitral families llama3", "vitral families --json")


def verb(
    name: Annotated[str | None, typer.Argument(help="Only this family, with the size of every preset.")] = None,
    json: Json = False,
) -> None:
    """List the architectures, oldest first."""
    from vitral.families import families, spec

    rows = [describe(each) for each in ([name] if name else families())]
    if name:
        rows[0]["parameters"] = {preset: spec(f"{name}/{preset}").count().total for preset in rows[0]["presets"]}
    if json:
        common.emit(rows)
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    if name:
        row = rows[0]
        print(f"{row['title']} ({row['org']}, {row['year']}; {row['source']}): {row['idea']}.\n")
        table.add_column("preset")
        table.add_column("parameters", justify="right")
        for preset, total in row["parameters"].items():
            table.add_row(f"{name}/{preset}", common.human_count(total))
    else:
        for title in ("family", "year", "kind", "source", "presets"):
            table.add_column(title, overflow="fold")
        for row in rows:
            table.add_row(row["name"], str(row["year"]), row["kind"], row["source"], "  ".join(row["presets"]))
    common.console().print(table)


def describe(name: str) -> dict[str, Any]:
    """The card of a family and the names of its presets."""
    from dataclasses import asdict

    from vitral.families import family, presets

    return {"name": name, **asdict(family(name).CARD), "presets": presets(name)}

"""`vitral list`: the models on this machine, and those one `pull` away."""

from __future__ import annotations

from dataclasses import asdict

from vitral.cli import common
from vitral.cli.common import Json

EXAMPLES = ("vitral list", "vitral ls --json")


def verb(json: Json = False) -> None:
    """List the models on this machine and in the catalogue."""
    from vitral.weights.catalogue import list_models

    rows = list_models()
    if json:
        common.emit([asdict(row) for row in rows])
        return
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("name", "size", "here", "licence", "what"):
        table.add_column(title, justify="right" if title == "size" else "left", overflow="fold")
    for row in rows:
        table.add_row(row.name, common.human_bytes(row.size), "yes" if row.path else "no", row.licence, row.what)
    common.console().print(table)

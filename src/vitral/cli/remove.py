"""`vitral rm NAME`: give the disk back."""

from __future__ import annotations

from typing import Annotated

import typer

from vitral.cli import common

EXAMPLES = ("vitral rm smollm2-135m-instruct",)


def verb(name: Annotated[str, typer.Argument(help="A name of `vitral list`.")]) -> None:
    """Remove a pulled model from this machine, with what an interrupted pull left of it."""
    from vitral.weights.catalogue import remove

    print(f"removed {name}: {common.human_bytes(remove(name))} freed")

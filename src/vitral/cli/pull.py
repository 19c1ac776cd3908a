"""`vitral pull NAME`: fetch a model, once."""

from __future__ import annotations

from typing import Annotated

import typer

from vitral.cli import common
from vitral.cli.common import Json
from vitral.cli.progress import progress

EXAMPLES = (
    "vitral pull smollm2-135m-instruct",
    "vitral pull HuggingFaceTB/SmolLM2-135M-Instruct --revision main",
    "vitral pull owner/name:model.Q8_0.gguf",
)


def verb(
    name: Annotated[str, typer.Argument(help="A catalogue name, owner/name on the hub, or owner/name:FILE.gguf.")],
    revision: Annotated[str | None, typer.Option(help="A branch, tag or commit of a hub repository.")] = None,
    json: Json = False,
) -> None:
    """Fetch a model and verify every byte of it. Interrupted, it goes on where it stopped."""
    from vitral.weights.catalogue import pull

    with progress() as report:
        path = pull(name, revision=revision, progress=report)
    if json:
        common.emit({"model": name, "path": str(path)})
    else:
        print(path)

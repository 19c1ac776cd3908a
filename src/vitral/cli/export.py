"""`vitral export MODEL --to hf|gguf --out PATH`: a model in a form other programs open."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from vitral.cli import common
from vitral.cli.common import Json, Model
from vitral.cli.progress import progress
from vitral.errors import VitralError

EXAMPLES = (
    "vitral export smollm2-135m-instruct --to hf --out ./smollm2",
    "vitral export ./my-model --to gguf --kind Q8_0 --out my-model.gguf",
)


class Layout(StrEnum):
    hf = "hf"
    gguf = "gguf"


class Kind(StrEnum):
    F32 = "F32"
    F16 = "F16"
    Q8_0 = "Q8_0"


def verb(
    model: Model,
    to: Annotated[Layout, typer.Option("--to", help="hf: a Hugging Face folder; gguf: a file for llama.cpp.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new folder or file; never overwritten.")],
    dtype: Annotated[str | None, typer.Option(help="Of a folder: float32, bfloat16, float16.")] = None,
    kind: Annotated[Kind | None, typer.Option(help="Of a GGUF file.")] = None,
    json: Json = False,
) -> None:
    """Write a model as a Hugging Face folder or a GGUF file; nothing half-written is left behind."""
    if to is Layout.hf and kind is not None:
        raise VitralError("--kind is for GGUF files", "Use --dtype with --to hf", param="kind")
    if to is Layout.gguf and dtype is not None:
        raise VitralError("--dtype is for folders", "Use --kind with --to gguf", param="dtype")
    out = common.new_place(out, ending=".gguf" if to is Layout.gguf else "")
    lm = common.load(model, dtype=dtype or "float32")
    with progress(f"writing {out}"):
        path = lm.save(out) if to is Layout.hf else lm.save_gguf(out, kind=kind or Kind.F32)
    size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
    if json:
        common.emit({"model": lm.name, "path": str(path), "bytes": size})
    else:
        print(f"{path}: {common.human_bytes(size)}")

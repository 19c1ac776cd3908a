"""What the verbs share: options that mean the same everywhere, reading prompts, loading with a sign of life, JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitral.errors import VitralError

if TYPE_CHECKING:
    from rich.console import Console

    from vitral.lm import LanguageModel

Model = Annotated[str, typer.Argument(help="A folder, a .gguf file, a catalogue name or a hub id.", metavar="MODEL")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Device = Annotated[str, typer.Option(help="Where the model runs: cpu, cuda, cuda:1, mps.")]
Dtype = Annotated[str, typer.Option(help="Numbers the model computes in: float32, bfloat16, float16.")]
System = Annotated[str | None, typer.Option(help="A system message before the prompt.")]
MaxTokens = Annotated[int | None, typer.Option(help="At most this many new tokens.")]
Temperature = Annotated[float | None, typer.Option(help="0 takes the likeliest token; above 1 flattens.")]
TopK = Annotated[int | None, typer.Option(help="Keep the K likeliest tokens; 0 keeps all.")]
TopP = Annotated[float | None, typer.Option(help="Keep the likeliest tokens that sum to P.")]
MinP = Annotated[float | None, typer.Option(help="Keep tokens at least P times as likely as the likeliest.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same answer.")]
Stop = Annotated[list[str] | None, typer.Option(help="Stop before this text; may be given several times.")]


def sampling_fields(**options: Any) -> dict[str, Any]:
    """The options that were given, checked now: a bad number is refused before a model is loaded."""
    from vitral.generate.request import Sampling

    given = {name: value for name, value in options.items() if value is not None and value != []}
    Sampling(**given)
    return given


def read_prompt(prompt: str | None) -> str:
    """The prompt of the command line; stdin when it is "-" or left out. Text must be UTF-8 and not empty."""
    if prompt is None or prompt == "-":
        if sys.stdin.isatty():
            print("type the prompt, then Ctrl-D", file=sys.stderr)
        prompt = utf8(sys.stdin.buffer.read()).removesuffix("\n").removesuffix("\r")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise VitralError("the prompt is not UTF-8", "Check the terminal's encoding", param="prompt") from None
    if not prompt:
        raise VitralError("the prompt is empty", "Give some text, or pipe it into stdin", param="prompt")
    return prompt


def utf8(raw: bytes, what: str = "stdin") -> str:
    """The text of bytes from outside, without a byte order mark; `what` is their name in the error."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} at offset {error.start}"
        raise VitralError(f"{what} is not UTF-8: {byte}", "Convert it first, for example with iconv") from None


def new_place(out: Path, *, ending: str = "") -> Path:
    """Where a new folder (or, with an `ending`, a new file) is to go, checked before seconds of work are spent on it.

    Whoever writes it checks again: much can happen meanwhile.
    """
    from vitral.weights.files import user_path

    out = user_path(out)
    if out.exists() and (ending or not out.is_dir()):
        raise VitralError(f"{str(out)!r} exists", "Name a new path, or remove that one", param="out")
    if out.exists() and any(out.iterdir()):
        raise VitralError(f"{str(out)!r} exists and is not empty", "Name a new folder, or remove that one", param="out")
    if ending and out.suffix.lower() != ending:
        raise VitralError(f"{str(out)!r} does not end in {ending}", "Programs go by that ending", param="out")
    above = next(folder for folder in out.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        cause = "may not be written to" if above.is_dir() else "is a file"
        raise VitralError(f"{str(above)!r} {cause}", "Give another place for the output", param="out")
    return out


def conversation(
    lm: LanguageModel, prompt: str, system: str | None, *, raw: bool = False, images: Sequence[Any] = ()
) -> str | list[dict[str, Any]]:
    """What the model is asked: messages where it has a chat template (and `raw` is off), else the text as it is.
    Pictures (paths, or opened) come before the text.
    """
    if raw or (lm.chat is None and system is None):
        for option, given in (("--system", system is not None), ("--image", bool(images))):
            if given:
                remedy = "Leave out --raw" if raw else f"{lm.name} has none; use a model tuned for chat"
                raise VitralError(f"{option} needs the chat template", remedy, param=option[2:])
        return prompt
    first = [] if system is None else [{"role": "system", "content": system}]
    shown: list[dict[str, Any]] = [{"type": "image", "image": image} for image in images]
    return [*first, {"role": "user", "content": [*shown, {"type": "text", "text": prompt}] if shown else prompt}]


def load(model: str, *, device: str = "cpu", dtype: str = "float32", generates: bool = False) -> LanguageModel:
    """`vitral.load` with a sign of life on stderr; a known model that is not on this machine is fetched first.

    Args:
        generates: the model is wanted for its answers, so an encoder is refused.
    """
    from vitral.cli.progress import progress

    with progress(f"loading {model}") as report:
        import vitral

        check_device(device)
        lm = vitral.load(model, device=device, dtype=dtype, progress=report)
    if generates and "decoder" not in lm.kind:
        remedy = (
            f"Look inside it with: vitral inspect {model} TEXT; in Python, vitral.load(…).embed() gives its vectors"
            if lm.kind == "encoder"
            else "In Python, vitral.load(…) names pictures with classify(), or compares them with texts by match()"
        )
        what = "is an encoder" if lm.kind == "encoder" else "takes pictures"
        raise VitralError(f"{lm.name} {what} and does not generate", remedy, param="model")
    return lm


def check_device(device: str) -> None:
    """Refuse a device this machine does not have before anything is read for it."""
    import torch

    try:
        if torch.empty(1, device=device).is_meta:
            raise RuntimeError("it holds shapes and no numbers")
    except (RuntimeError, AssertionError) as error:
        # torch's first sentence says what is missing; the rest is advice on rebuilding torch
        cause = str(error).splitlines()[0].partition(". ")[0][:120]
        raise VitralError(
            f"device {device!r:.40} is not usable: {cause}", "See: vitral doctor", param="device"
        ) from None


def console() -> Console:
    """Where tables and drawings go: coloured on a terminal, plain text elsewhere, never cut off in a pipe."""
    from rich.console import Console

    class Out(Console):
        def on_broken_pipe(self) -> None:
            raise  # rich calls this in its `except` and would itself exit with 1; `cli.run` knows better

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else 120
    return Out(highlight=False, width=width)


def emit(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2, default=str))


def human_bytes(n: float) -> str:
    """1536 → "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n) < 1024:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} TiB"


def human_count(n: float) -> str:
    """134515008 → "134.5 M"."""
    for unit in ("", " k", " M", " B"):
        if abs(n) < 1000:
            return f"{n:.0f}" if not unit else f"{n:.1f}{unit}"
        n /= 1000
    return f"{n:.2f} T"

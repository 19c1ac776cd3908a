"""`vitral generate MODEL PROMPT`: one answer, streamed to stdout."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitral.cli import common
from vitral.cli.common import (
    Device,
    Dtype,
    Json,
    MaxTokens,
    MinP,
    Model,
    Seed,
    Stop,
    System,
    Temperature,
    TopK,
    TopP,
)
from vitral.errors import VitralError

if TYPE_CHECKING:
    from PIL.Image import Image

    from vitral.generate.request import Token

EXAMPLES = (
    "vitral generate smollm2-135m-instruct 'What is the capital of France?' --temperature 0",
    "echo 'Once upon a time' | vitral generate ./my-model --raw --max-tokens 50",
    "vitral generate smollm2-135m-instruct 'Say hi' --candidates 3 --json",
)
Raw = Annotated[bool, typer.Option("--raw", help="Feed the text as it is, without the chat template.")]
Images = Annotated[
    list[str] | None, typer.Option("--image", help="Show the model this picture; may be given again.", metavar="FILE")
]
Candidates = Annotated[int, typer.Option(help="Show this many alternatives for every new token.")]


def verb(
    model: Model,
    prompt: Annotated[str | None, typer.Argument(help="The text; - or nothing reads stdin.", metavar="PROMPT")] = None,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    seed: Seed = None,
    stop: Stop = None,
    system: System = None,
    raw: Raw = False,
    image: Images = None,
    candidates: Candidates = 0,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Answer one prompt. A chat model gets it through its template; options left out take the model's defaults."""
    fields = common.sampling_fields(
        max_tokens=max_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        seed=seed,
        stop=stop,
        candidates=candidates,
    )
    pictures = opened(image or (), raw=raw)
    text = common.read_prompt(prompt)
    lm = common.load(model, device=device, dtype=dtype, generates=True)
    if pictures and lm.pictures is None:
        raise VitralError(f"{lm.name} sees no pictures", "Leave out --image, or use a model that sees", param="image")
    question = common.conversation(lm, text, system, raw=raw, images=pictures)
    if json:
        start = time.perf_counter()
        generation = lm.generate(question, **fields)
        seconds = time.perf_counter() - start
        common.emit({"model": lm.name, "seconds": round(seconds, 3), **generation.to_dict()})
        return
    tokens = []
    for token in lm.stream(question, **fields):
        tokens.append(token)
        print(token.text, end="", flush=True)
    print()
    if candidates:
        print_candidates(tokens)


def opened(images: Sequence[str], *, raw: bool) -> list[Image]:
    """The pictures, read before the model is loaded: a file that is none is refused at once."""
    if not images:
        return []
    if raw:
        raise VitralError("--image needs the chat template", "Leave out --raw", param="image")
    from vitral.image import read_image

    return [read_image(image) for image in images]


def print_candidates(tokens: list[Token]) -> None:
    """A row a token: what was taken, how likely it was, and what else could have been."""
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("token", "p", "candidates"):
        table.add_column(title)
    for token in tokens:
        taken = next((c.text for c in token.candidates if c.id == token.id), token.text)
        others = "   ".join(f"{visible(c.text)} {probability(c.logprob)}" for c in token.candidates)
        table.add_row(visible(taken), probability(token.logprob), others)
    out = common.console()
    out.print()
    out.print(table)


def visible(text: str) -> Any:
    """A token as it can be seen: quoted, with its spaces and line ends."""
    from rich.markup import escape

    return escape(repr(text))


def probability(logprob: float) -> str:
    import math

    return f"{100 * math.exp(logprob):.1f}%"

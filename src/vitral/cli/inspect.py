"""`vitral inspect MODEL PROMPT`: one forward pass, looked into from outside."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitral.cli import common
from vitral.cli.common import Device, Dtype, Json, Model
from vitral.errors import PromptTooLongError, VitralError

if TYPE_CHECKING:
    from vitral.lm import LanguageModel

EXAMPLES = (
    "vitral inspect smollm2-135m-instruct 'The capital of France is'",
    "vitral inspect smollm2-135m-instruct 'The capital of France is' --layer 20 --top 10",
    "vitral inspect all-minilm-l6-v2 'a see-through model' --json",
)
SHADES = " ░▒▓█"
MAX_COLUMNS = 48
Layer = Annotated[int, typer.Option(help="Whose attention to draw; negative counts from the last.")]
Top = Annotated[int, typer.Option(min=1, max=100, help="How many candidates for the next token.")]
Template = Annotated[bool, typer.Option("--chat", help="Put the prompt through the chat template first.")]


def verb(
    model: Model,
    prompt: Annotated[str | None, typer.Argument(help="The text; - or nothing reads stdin.", metavar="PROMPT")] = None,
    layer: Layer = -1,
    top: Top = 5,
    chat: Template = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Print the attention of a layer, the residual stream's size after each, and the next-token candidates."""
    text = common.read_prompt(prompt)
    lm = common.load(model, device=device, dtype=dtype)
    seen = look(lm, common.conversation(lm, text, None, raw=not chat), top)
    layers = len(seen["attention"])
    if not -layers <= layer < layers:
        raise VitralError(f"there is no layer {layer}", f"Give 0 to {layers - 1}, or -1 for the last", param="layer")
    if json:
        common.emit(seen)
        return
    print_attention(seen["tokens"], seen["attention"][layer], layer % layers)
    print_residual(seen)
    if seen["candidates"]:
        print("\nnext token:")
        for candidate in seen["candidates"]:
            share = candidate["probability"]
            print(f"  {share:7.2%} {'█' * round(40 * share):<40} {candidate['text']!r}")


def look(lm: LanguageModel, prompt: str | list[dict[str, str]], top: int) -> dict[str, Any]:
    """Run one pass and keep what it showed, as plain values.

    Returns:
        tokens: T texts; attention: [layer][query][key], averaged over the heads; residual: for the embedding and each
        layer the norm of the last token's vector and the mean over tokens; candidates: of the token after the last.
    """
    import torch

    import vitral
    from vitral.inspect.record import points

    if lm.kind in ("image", "two towers"):
        raise VitralError(f"{lm.name} reads no text alone", "In Python, vitral.record looks into it", param="model")
    ids = lm.encode_prompt(prompt)
    if len(ids) > lm.context:
        raise PromptTooLongError(
            f"the prompt is {len(ids)} tokens long and the context holds {lm.context}", "Shorten the prompt"
        )
    names = points(lm.model)
    side = "encoder." if lm.kind == "encoder-decoder" else ""  # what has read the text
    block = re.escape(side) + r"stack\.blocks\.\d+"
    blocks = sorted((name for name in names if re.fullmatch(block, name)), key=_depth)
    looks = re.compile(block + r"\.(?!cross\.).*\bkernel\.pattern")
    patterns = sorted((name for name in names if looks.fullmatch(name)), key=_depth)
    batch = torch.tensor([ids])
    first = {"decoder_input_ids": [lm.source.first(lm.config)]} if side else {}
    with vitral.record(lm.model, f"{side}embed", *blocks, *patterns) as seen, torch.inference_mode():
        logits = lm.logits(batch, **first) if lm.model.head is not None else lm.hidden(batch, **first)
    norms = {name.removeprefix(side): seen[name][0].float().norm(dim=-1) for name in (f"{side}embed", *blocks)}
    candidates = []
    if lm.model.head is not None:
        best = torch.softmax(logits[0, -1].double(), -1).topk(top)
        for id, share in zip(best.indices.tolist(), best.values.tolist(), strict=True):
            candidates.append({"id": id, "text": lm.tokenizer.token_text(id), "probability": share})
    return {
        "model": lm.name,
        "ids": ids,
        "tokens": [lm.tokenizer.token_text(id) for id in ids],
        "attention": [seen[name][0].float().mean(0).tolist() for name in patterns],
        "residual": [
            {"point": name, "last": norm[-1].item(), "mean": norm.mean().item()} for name, norm in norms.items()
        ],
        "candidates": candidates,
        "swapped_kernels": len(seen.swapped),
    }


def _depth(name: str) -> tuple[int, str]:
    return int(re.findall(r"blocks\.(\d+)", name)[0]), name


def print_attention(tokens: list[str], pattern: list[list[float]], layer: int) -> None:
    """Who looks at whom: a row a query, a column a key, darker is more; long texts show their end."""
    first = max(0, len(tokens) - MAX_COLUMNS)
    print(f"attention of layer {layer}, mean of its heads" + (f" (the last {MAX_COLUMNS} tokens)" if first else ""))
    width = min(16, max(len(repr(token)) for token in tokens[first:]))
    for row in range(first, len(tokens)):
        # The square root spreads the small weights, which are most of them, over the shades.
        shades = (SHADES[min(4, math.ceil(4 * math.sqrt(weight) - 0.2))] for weight in pattern[row][first:])
        print(f"  {repr(tokens[row])[:width]:>{width}} {''.join(shade * 2 for shade in shades).rstrip()}")
    print(f"  {'':>{width}} " + "".join(f"{column:<6}" for column in range(first, len(tokens), 3)))


def print_residual(seen: dict[str, Any]) -> None:
    """How far the residual stream has grown after each layer."""
    print("\nresidual stream, norm of the last token's vector:")
    largest = max(row["last"] for row in seen["residual"])
    for row in seen["residual"]:
        name = row["point"].replace("stack.blocks.", "layer ")
        print(f"  {name:<9} {row['last']:10.2f} {'█' * round(40 * row['last'] / largest)}")

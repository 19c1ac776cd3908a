"""`vitral tokenizer show TEXT` and `vitral tokenizer train FILE …`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitral.cli import common
from vitral.cli.common import Json
from vitral.cli.progress import progress
from vitral.errors import VitralError
from vitral.weights.catalogue import DEFAULT

if TYPE_CHECKING:
    from vitral.text.tokenizer import Tokenizer

EXAMPLES = (
    "vitral tokenizer show 'O gato perseguiu o rato'",
    "vitral tokenizer show --model ./my-model/tokenizer.json --json 'café'",
    "vitral tokenizer train corpus.txt --kind bpe --vocab-size 8000 --form NFC --out ./tokenizer",
)
verb = typer.Typer(add_completion=False, rich_markup_mode=None)


class Kind(StrEnum):
    bpe = "bpe"
    wordpiece = "wordpiece"
    unigram = "unigram"


class Form(StrEnum):
    NFC = "NFC"
    NFKC = "NFKC"


@verb.command("show")
def show(
    text: Annotated[str | None, typer.Argument(help="The text; - or nothing reads stdin.", metavar="TEXT")] = None,
    model: Annotated[
        str, typer.Option(help="A model, or a file: tokenizer.json, .model, .tiktoken, vocab.txt.")
    ] = DEFAULT,
    json: Json = False,
) -> None:
    """Show how a text becomes ids: normalise, split, merges, ids."""
    text = common.read_prompt(text)
    explained = open_tokenizer(model).explain(text)
    if json:
        common.emit(explained.to_dict())
        return
    from vitral.text.show import render

    common.console().print(render(explained))


def open_tokenizer(model: str) -> Tokenizer:
    """The tokenizer of a model (its weights are not read), or of a single file by its name's ending."""
    from vitral.text.tokenizer import Tokenizer

    path = Path(model)
    if path.is_file() and path.suffix != ".gguf":
        readers: dict[str, Callable[[Path], Tokenizer]] = {
            ".json": Tokenizer.from_file,
            ".model": Tokenizer.from_sentencepiece,
            ".tiktoken": Tokenizer.from_tiktoken,
            ".txt": Tokenizer.from_vocab,
        }
        if path.suffix not in readers:
            endings = ", ".join((*readers, ".gguf"))
            raise VitralError(
                f"{model}: a tokenizer file ends in {endings}", "Give such a file, or a model", param="model"
            )
        return readers[path.suffix](path)
    if path.is_dir() and not any(path.glob("*.gguf")):
        return Tokenizer.from_folder(path)
    from vitral.source import Source

    with progress() as report:
        source = Source.find(model, progress=report)
    tokenizer = source.tokenizer()
    if tokenizer is None:
        raise VitralError(f"{model} has no tokenizer files", "Give a file instead", param="model")
    return tokenizer


@verb.command("train")
def train(
    files: Annotated[list[Path], typer.Argument(help="Text files, UTF-8.", metavar="FILE...")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new folder; never overwritten.")],
    vocab_size: Annotated[int, typer.Option(help="How many ids, special tokens included.")] = 8000,
    kind: Annotated[Kind, typer.Option(help="bpe works on bytes; wordpiece and unigram on letters.")] = Kind.bpe,
    form: Annotated[Form | None, typer.Option(help="Unicode normal form of the text.")] = None,
    lowercase: Annotated[bool, typer.Option("--lowercase", help="Fold case.")] = False,
    strip_accents: Annotated[bool, typer.Option("--strip-accents", help="Take marks off letters.")] = False,
    squeeze_spaces: Annotated[bool, typer.Option("--squeeze-spaces", help="One space for each run of them.")] = False,
    special: Annotated[
        list[str] | None, typer.Option(help="A further special token; may be given several times.")
    ] = None,
    json: Json = False,
) -> None:
    """Learn a tokenizer from text; write it as a folder."""
    from vitral.text.normalizer import Normalizer
    from vitral.text.trainer import train

    out = common.new_place(out)
    normalizer = Normalizer(
        form=form.value if form else None,
        lowercase=lowercase,
        strip_accents=strip_accents,
        squeeze_spaces=squeeze_spaces,
    )
    with progress(f"training on {len(files)} file{'s' if len(files) > 1 else ''}"):
        tokenizer = train(kind.value, files, vocab_size, normalizer=normalizer, specials=special or ())
    tokenizer.save(out)
    size = tokenizer.vocab_size
    if size < vocab_size:
        print(f"the text gives {size} of the {vocab_size} ids asked for", file=sys.stderr)
    if json:
        common.emit({"path": str(out), "kind": kind.value, "vocab_size": size, "asked": vocab_size})
    else:
        print(f"{out}: {size} ids, {kind.value}")

"""`vitral chat [MODEL] [PROMPT]`: a conversation in the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vitral.cli import common
from vitral.cli.common import Device, Dtype, MaxTokens, MinP, Model, Seed, System, Temperature, TopK, TopP
from vitral.errors import PromptTooLongError, VitralError
from vitral.weights.catalogue import DEFAULT

if TYPE_CHECKING:
    from vitral.lm import LanguageModel

EXAMPLES = (
    "vitral chat",
    "vitral chat smollm2-135m-instruct 'Write a haiku about glass'",
    "vitral chat ./my-model --system 'Answer in Portuguese.' --temperature 0.7",
)
HELP = "/reset forgets the conversation · /system TEXT sets the system message · /quit leaves · Ctrl-C stops an answer"


def verb(
    model: Model = DEFAULT,
    prompt: Annotated[str | None, typer.Argument(help="Ask this one question and stop.", metavar="PROMPT")] = None,
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = None,
    min_p: MinP = None,
    seed: Seed = None,
    system: System = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
) -> None:
    """Talk with a model. Lines from a pipe are turns too, so a conversation can be scripted."""
    fields = common.sampling_fields(
        max_tokens=max_tokens, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed
    )
    if prompt is not None:
        prompt = common.read_prompt(prompt)
    lines = read_lines() if prompt is None else iter(())
    lm = common.load(model, device=device, dtype=dtype, generates=True)
    if lm.chat is None:
        raise VitralError(f"{lm.name} has no chat template", f"Use: vitral generate {model} PROMPT")
    talk = Talk(lm, system, fields)
    if prompt is not None:
        talk.answer(prompt)
        return
    if sys.stdin.isatty():
        print(f"{lm.name}. {HELP}")
    for line in map(str.strip, lines):
        if line and not talk.command(line):
            talk.answer(line)


def read_lines() -> Iterator[str]:
    """The lines of stdin as they come. What is there already is checked now, before a model is loaded for it: all of
    a file, the first line of a pipe, whose writer may be waiting for our answer to it.
    """
    if sys.stdin.isatty():
        return typed_lines()
    raw = sys.stdin.buffer
    if raw.seekable():
        return iter(common.utf8(raw.read()).split("\n"))
    texts = (common.utf8(line, f"line {number} of stdin") for number, line in enumerate(raw, 1))
    return chain([next(texts, "")], texts)


def typed_lines() -> Iterator[str]:
    """What a person types, until Ctrl-D."""
    try:
        while True:
            yield input("› ")
    except EOFError:
        return
    except UnicodeDecodeError:
        raise VitralError("what was typed is not UTF-8", "Check the terminal's encoding") from None


class Talk:
    """A conversation: its messages so far, and the model that answers."""

    def __init__(self, lm: LanguageModel, system: str | None, fields: dict[str, Any]) -> None:
        self.lm = lm
        self.fields = fields
        self.start = [] if system is None else [{"role": "system", "content": system}]
        self.messages = list(self.start)

    def command(self, line: str) -> bool:
        """Carry out a line that starts with a slash; False when it is something to say."""
        name, _, rest = line.partition(" ")
        if name == "/quit":
            raise typer.Exit
        if name in ("/reset", "/system"):
            if name == "/system":
                self.start = [{"role": "system", "content": rest}] if rest else []
            self.messages = list(self.start)
            return True
        if name == "/help" or (name.startswith("/") and name[1:].isalpha()):
            print(HELP)
            return True
        return False

    def answer(self, text: str) -> None:
        """Stream one answer. Ctrl-C keeps what was said so far; a turn that does not fit is taken back."""
        self.messages.append({"role": "user", "content": text})
        said, count, start = "", 0, time.perf_counter()
        try:
            for token in self.lm.stream(self.messages, **self.fields):
                said += token.text
                count += 1
                print(token.text, end="", flush=True)
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
        except PromptTooLongError:
            self.messages.pop()
            raise
        print()
        if sys.stdout.isatty():
            seconds = time.perf_counter() - start
            print(f"\033[2m{count} tokens, {count / seconds:.1f} a second\033[0m")
        self.messages.append({"role": "assistant", "content": said})

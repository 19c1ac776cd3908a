"""A small language model that obeys the contract of `vitral.LanguageModel` and costs nothing to run.

It answers with a text made from the messages, cut into word tokens; characters beyond Latin-1 are cut into their UTF-8
bytes, as byte-level vocabularies do. What it was asked, and how far it came, is kept for the tests to look at.
"""

from __future__ import annotations

import codecs
import math
import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

from vitral.errors import PromptTooLongError, VitralError
from vitral.generate.request import Candidate, Sampling, Token

START, END = 256, 257
SPECIALS = {"<|im_start|>": START, "<|im_end|>": END}
WORDS = [" the", " a", " of", " light", " glass", " window", " colour", " lead", " and", " in"]
PIECE = re.compile(r" ?[^\W\d_]+|.", re.DOTALL)


class ToyTokenizer:
    """Ids 0 to 255 are bytes, then the special tokens, then pieces in the order they were first seen."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._ids: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for piece in PIECE.findall(text):
            if ord(piece[-1]) > 255:
                ids += piece.encode()
            else:
                ids.append(self._ids.setdefault(piece, 258 + len(self._pieces)))
                if len(self._ids) > len(self._pieces):
                    self._pieces.append(piece)
        return ids

    def token_bytes(self, id: int) -> bytes:
        if id < 256:
            return bytes([id])
        return b"" if id < 258 else self._pieces[id - 258].encode()

    def token_text(self, id: int) -> str:
        if id < 256:
            return f"<0x{id:02X}>"
        return next((name for name, special in SPECIALS.items() if special == id), None) or self._pieces[id - 258]

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        parts = [
            self.token_text(id).encode() if id in (START, END) and not skip_special else self.token_bytes(id)
            for id in ids
        ]
        return b"".join(parts).decode("utf-8", "replace")


def echo(messages: list[dict[str, Any]]) -> str:
    return f"You said: {messages[-1]['content']}"


class ToyLM:
    """See the module's first lines.

    Args:
        reply: the answer's text for the messages.
        seconds: how long each token takes. prefill: how long the prompt takes, in pieces of 10 ms.
        longest_text: most characters it says its context can hold.
        fault: raised in place of the token at `fault_at`, when given.
    """

    def __init__(
        self,
        name: str = "toy",
        *,
        reply: Callable[[list[dict[str, Any]]], str] = echo,
        seconds: float = 0.0,
        prefill: float = 0.0,
        context: int = 4096,
        longest_text: int | None = None,
        kind: str = "decoder",
        fault: BaseException | None = None,
        fault_at: int = 0,
    ) -> None:
        self.name, self.kind, self.context, self.longest_text = name, kind, context, longest_text
        self.reply, self.seconds, self.prefill, self.fault, self.fault_at = reply, seconds, prefill, fault, fault_at
        self.tokenizer = ToyTokenizer()
        self.chat = object()
        self.licence = "Apache-2.0"
        self.defaults = Sampling(temperature=0.0)
        self.spec = SimpleNamespace(count=lambda: SimpleNamespace(total=1234, active=1234))
        self.asked: list[SimpleNamespace] = []
        self.produced = 0
        self.live = 0

    def encode_prompt(self, prompt: list[dict[str, Any]], tools: list[dict[str, Any]] | None = None) -> list[int]:
        self.asked.append(SimpleNamespace(messages=prompt, tools=tools, sampling=None))
        if not prompt[-1]["content"]:
            raise VitralError("the prompt is empty", "Give some text", param="messages")
        ids: list[int] = []
        for message in prompt:
            ids += [START, *self.tokenizer.encode(f"{message['role']}\n{message['content']}"), END]
        return [*ids, START, *self.tokenizer.encode("assistant\n")]

    def stream(
        self, prompt: list[int], *, sampling: Sampling, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Token]:
        self.asked[-1].sampling = sampling
        if len(prompt) >= self.context:
            raise PromptTooLongError(
                f"the prompt has {len(prompt)} tokens and the context holds {self.context}", "Shorten the prompt"
            )
        self.live += 1
        try:
            for _ in range(round(self.prefill / 0.01)):
                if stopped():
                    return
                time.sleep(0.01)
            yield from self._answer(self._messages(prompt), sampling, stopped)
        finally:
            self.live -= 1

    def _messages(self, ids: list[int]) -> list[dict[str, Any]]:
        """What the ids say: only special ids, never text that looks like them, begin and end a message."""
        messages = []
        while END in ids:
            end = ids.index(END)
            role, _, content = self.tokenizer.decode(ids[1:end]).partition("\n")
            messages.append({"role": role, "content": content})
            ids = ids[end + 1 :]
        return messages

    def _answer(self, prompt: list[dict[str, Any]], sampling: Sampling, stopped: Callable[[], bool]) -> Iterator[Token]:
        text = self.reply(prompt)
        if sampling.temperature > 0:
            text += random.Random(sampling.seed).choice(WORDS)
        cuts = [at for stop in sampling.stop if (at := text.find(stop)) >= 0]
        text = text[: min(cuts)] if cuts else text
        ids = [*self.tokenizer.encode(text), END]
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for i, id in enumerate(ids):
            if stopped():
                return
            time.sleep(self.seconds)
            if self.fault is not None and i == self.fault_at:
                raise self.fault
            self.produced += 1
            finish = "stop" if id == END else "length" if i + 1 == sampling.max_tokens else None
            candidates = self._candidates(id, i, sampling.candidates)
            yield Token(
                id=id,
                text=decoder.decode(self.tokenizer.token_bytes(id), final=finish is not None),
                logprob=math.log(_probability(i)),
                candidates=candidates,
                finish_reason=finish,
            )
            if finish:
                return

    def _candidates(self, chosen: int, step: int, count: int) -> tuple[Candidate, ...]:
        """The chosen token and some words, by falling probability."""
        others = [id for word in WORDS for id in self.tokenizer.encode(word) if id != chosen]
        others = others[step % len(others) :] + others[: step % len(others)]
        rest = 1 - _probability(step)
        scored = [(chosen, _probability(step))] + [(id, rest * 0.5 ** (k + 1)) for k, id in enumerate(others)]
        scored.sort(key=lambda pair: -pair[1])
        return tuple(
            Candidate(id=id, text=self.tokenizer.token_text(id), logprob=math.log(p)) for id, p in scored[:count]
        )


def _probability(step: int) -> float:
    """The chosen token's probability at a step: anything between sure and doubtful."""
    return 0.12 + 0.86 * random.Random(step).random()

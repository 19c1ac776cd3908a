"""Generation is the whole pass repeated: greedy ids, log-probabilities, batches, stops, limits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from tests.nn.tiny import DECODERS, some_ids, tiny
from vitral.errors import PromptTooLongError, VitralError
from vitral.generate.loop import CHUNK, StopStrings, run
from vitral.generate.request import Sampling, Token
from vitral.nn import Model

VOCAB = 50
TOLERANCE = 1e-5


class Alphabet:
    """A toy tokenizer: id → one or several characters; "?" is half a character, two of them make an é."""

    def __init__(self, words: Sequence[str] = ()) -> None:
        self.words = list(words) or [chr(97 + i % 26) for i in range(VOCAB)]

    def stream(self) -> Any:
        return _Decoder(self)

    def token_text(self, id: int) -> str:
        return self.words[id]


class _Decoder:
    def __init__(self, alphabet: Alphabet) -> None:
        self.alphabet = alphabet
        self.half = False

    def push(self, id: int) -> str:
        word = self.alphabet.token_text(id)
        if word != "?":
            return word
        self.half = not self.half
        return "" if self.half else "é"

    def finish(self) -> str:
        return "\ufffd" if self.half else ""


def go(model: Model, prompts: Sequence[Sequence[int]], *settings: Sampling, eos: Sequence[int] = (), **options: Any):
    """Every row's tokens."""
    samplings = list(settings) * len(prompts) if len(settings) == 1 else list(settings)
    options = {"tokenizer": Alphabet(), "eos": frozenset(eos), **options}
    rows: list[list[Token]] = [[] for _ in prompts]
    for row, token in run(model, prompts, samplings, **options):
        rows[row].append(token)
    return rows


def recomputed(model: Model, prompt: Sequence[int], count: int) -> list[tuple[int, float]]:
    """Greedy ids and log-probabilities with no cache at all."""
    ids, found = list(prompt), []
    for _ in range(count):
        with torch.inference_mode():
            logprobs = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
        best = int(logprobs.argmax())
        found.append((best, logprobs[best].item()))
        ids.append(best)
    return found


def assert_same(tokens: list[Token], want: Sequence[tuple[int, float]]) -> None:
    assert [t.id for t in tokens] == [id for id, _ in want]
    assert max(abs(t.logprob - logprob) for t, (_, logprob) in zip(tokens, want, strict=True)) <= TOLERANCE


@pytest.mark.parametrize("name", DECODERS)
def test_greedy_is_the_argmax_of_a_whole_pass(name: str) -> None:
    model, prompt = tiny(name, tie_word_embeddings=False), some_ids(1, 9)[0].tolist()
    [tokens] = go(model, [prompt], Sampling(max_tokens=30))
    assert_same(tokens, recomputed(model, prompt, 30))
    assert [t.finish_reason for t in tokens] == [None] * 29 + ["length"]
    assert len({t.id for t in tokens}) > 1, "a model that repeats one id proves little"


@pytest.mark.parametrize("name", DECODERS)
def test_a_batch_of_ragged_prompts_equals_each_alone(name: str) -> None:
    model = tiny(name)
    prompts = [some_ids(1, n, seed=n)[0].tolist() for n in (1, 17, 5, 30, 2)]
    settings = [Sampling(max_tokens=n) for n in (12, 3, 34, 20, 1)]
    for prompt, sampling, tokens in zip(prompts, settings, go(model, prompts, *settings), strict=True):
        assert sampling.max_tokens is not None
        assert_same(tokens, recomputed(model, prompt, sampling.max_tokens))


def test_prompts_longer_than_a_piece() -> None:
    model = tiny("qwen2", max_position_embeddings=2 * CHUNK)
    prompts = [some_ids(1, n, seed=n)[0].tolist() for n in (CHUNK + 7, 3, CHUNK, 2 * CHUNK - 2)]
    for prompt, tokens in zip(prompts, go(model, prompts, Sampling(max_tokens=2)), strict=True):
        assert_same(tokens, recomputed(model, prompt, 2))


def test_sampling_follows_the_seed_and_not_the_neighbours() -> None:
    model = tiny("llama3")
    prompts = [some_ids(1, n, seed=n)[0].tolist() for n in (4, 9, 6)]
    seeds = [Sampling(max_tokens=15, temperature=1.0, seed=s) for s in (1, 2, 3)]
    together = [[t.id for t in row] for row in go(model, prompts, *seeds)]
    alone = [[t.id for t in go(model, [p], s)[0]] for p, s in zip(prompts, seeds, strict=True)]
    assert together == alone
    other = go(model, prompts[:1], Sampling(max_tokens=15, temperature=1.0, seed=9))[0]
    assert [t.id for t in other] != alone[0]
    free = {tuple(t.id for t in go(model, prompts[:1], Sampling(max_tokens=15, temperature=1.0))[0]) for _ in range(3)}
    assert len(free) > 1, "without a seed every answer is drawn anew"


def test_a_reported_logprob_is_the_models_own_whatever_the_temperature() -> None:
    model, prompt = tiny("gpt2"), some_ids(1, 6)[0].tolist()
    [tokens] = go(model, [prompt], Sampling(max_tokens=8, temperature=0.7, top_k=5, seed=3, candidates=4))
    ids = list(prompt)
    for token in tokens:
        with torch.inference_mode():
            logprobs = model(torch.tensor([ids]))[0, -1].log_softmax(-1)
        assert abs(token.logprob - logprobs[token.id].item()) <= TOLERANCE
        best = logprobs.topk(4)
        assert [c.id for c in token.candidates] == best.indices.tolist()
        assert [c.logprob for c in token.candidates] == pytest.approx(best.values.tolist(), abs=TOLERANCE)
        assert [c.text for c in token.candidates] == [Alphabet().token_text(c.id) for c in token.candidates]
        ids.append(token.id)


def test_an_ending_id_ends_its_row_alone_and_shows_nothing() -> None:
    model = tiny("llama3")
    prompts = [some_ids(1, n, seed=n)[0].tolist() for n in (7, 12)]
    want = [recomputed(model, p, 20) for p in prompts]
    end = want[0][4][0]
    cut = [next((i for i, (id, _) in enumerate(w) if id == end), 19) + 1 for w in want]
    rows = go(model, prompts, Sampling(max_tokens=20), eos=[end])
    for tokens, w, n in zip(rows, want, cut, strict=True):
        assert_same(tokens, w[:n])
    assert rows[0][-1].finish_reason == "stop"
    assert rows[0][-1].text == ""
    assert cut[0] <= 5
    rows = go(model, prompts[:1], Sampling(max_tokens=20, ignore_eos=True), eos=[end])
    assert_same(rows[0], want[0])
    assert rows[0][-1].finish_reason == "length"


def test_a_context_that_is_full_ends_with_length() -> None:
    model = tiny("gpt2")
    prompt = some_ids(1, 60)[0].tolist()
    for limit in (None, 1000):
        [tokens] = go(model, [prompt], Sampling(max_tokens=limit))
        assert_same(tokens, recomputed(model, prompt, 4))
        assert tokens[-1].finish_reason == "length"
    [tokens] = go(model, [some_ids(1, 63)[0].tolist()], Sampling())
    assert len(tokens) == 1


def test_a_prompt_that_leaves_no_room_is_refused_before_anything_runs() -> None:
    model = tiny("gpt2")
    for length in (64, 65, 500):
        with pytest.raises(PromptTooLongError, match=f"{length} tokens.*64") as error:
            run(model, [[1] * length], [Sampling()], tokenizer=Alphabet(), eos=frozenset())
        assert error.value.param == "prompt"
    with pytest.raises(VitralError, match="empty"):
        run(model, [[1], []], [Sampling()] * 2, tokenizer=Alphabet(), eos=frozenset())


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_ids_beyond_the_tokenizer_are_never_chosen(temperature: float) -> None:
    """Published tables are padded: rows the tokenizer does not know must have probability 0."""
    model = tiny("llama3")
    with torch.no_grad():
        model.head.proj.weight[45:] = 5 * model.head.proj.weight[:5]
    prompt = some_ids(1, 5)[0].tolist()
    sampling = Sampling(max_tokens=40, temperature=temperature, seed=1, candidates=20, ignore_eos=True)
    [free] = go(model, [prompt], sampling)
    assert max(t.id for t in free) >= 45, "without the limit they would be"
    [tokens] = go(model, [prompt], sampling, vocab_limit=45)
    assert max(t.id for t in tokens) < 45
    assert max(c.id for t in tokens for c in t.candidates) < 45
    with torch.inference_mode():
        want = model(torch.tensor([prompt]))[0, -1, :45].log_softmax(-1)
    assert abs(tokens[0].logprob - want[tokens[0].id].item()) <= TOLERANCE


def test_closing_the_iterator_stops_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = tiny("gpt2"), []
    model.stack.register_forward_hook(lambda *_: calls.append(1))
    tokens = run(model, [[1, 2, 3]], [Sampling(max_tokens=30)], tokenizer=Alphabet(), eos=frozenset())
    assert not calls, "nothing runs before the first token is asked for"
    next(tokens)
    next(tokens)
    tokens.close()
    assert len(calls) == 2
    assert next(tokens, None) is None
    assert len(calls) == 2


def test_the_iterator_leaves_the_callers_grad_mode_alone() -> None:
    model = tiny("gpt2")
    for _ in run(model, [[1, 2]], [Sampling(max_tokens=3)], tokenizer=Alphabet(), eos=frozenset()):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()


# ── text ────────────────────────────────────────────────────────────────────────────────────────────────────


def visible(ids: Sequence[int], words: Sequence[str], stop: Sequence[str] = ()) -> tuple[str, list[Token]]:
    """What is shown when the model says exactly these ids."""
    tokens = go(Script(ids), [[0]], Sampling(max_tokens=len(ids), stop=tuple(stop)), tokenizer=Alphabet(words))[0]
    return "".join(t.text for t in tokens), tokens


class Script(torch.nn.Module):
    """A model that says what it is told to."""

    context = 1000

    def __init__(self, ids: Sequence[int]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.ids, self.said = list(ids), -1

    def new_cache(self, rows: int, length: int, *, chunk: int, memory: Any) -> Any:
        return type("Nothing", (), {"extend": lambda self, valid: None})()

    def hidden(self, ids: torch.Tensor, step: Any) -> torch.Tensor:
        self.said += 1
        return torch.zeros(1, 1, 1)

    def head(self, last: torch.Tensor) -> torch.Tensor:
        logits = torch.zeros(1, VOCAB)
        logits[0, self.ids[self.said]] = 9
        return logits


WORDS = ["", "Hel", "lo ", "wor", "ld", "!", "<", "/s", ">", "St", "op", "n", "\n", "\n\n", "ab", "a"] + ["?"] * 34


@pytest.mark.parametrize(
    ("ids", "stop", "text", "reason", "count"),
    [
        ([1, 2, 3, 4], [], "Hello world", "length", 4),
        ([1, 2, 3, 4, 5], ["world"], "Hello ", "stop", 4),
        ([1, 2, 3, 4, 5], ["lo w"], "Hel", "stop", 3),
        ([1, 6, 7, 8, 1], ["</s>"], "Hel", "stop", 4),
        ([1, 6, 7, 5, 4], ["</s>"], "Hel</s!ld", "length", 5),
        ([1, 6, 6, 7, 8], ["</s>"], "Hel<", "stop", 5),
        ([1, 6, 7], ["</s>"], "Hel</s", "length", 3),
        ([14, 14, 14, 15, 5], ["aba!"], "abab", "stop", 5),
        ([14, 14, 15, 5], ["aba!"], "ab", "stop", 4),
        ([1, 2, 3, 4, 5], ["world", "lo"], "Hel", "stop", 2),
        ([1, 2, 3, 4, 5], ["Hello world!"], "", "stop", 5),
        ([1, 12, 12, 3], ["\n\n"], "Hel", "stop", 3),
        ([1, 13, 3], ["\n"], "Hel", "stop", 2),
        ([40, 41, 1], ["é"], "", "stop", 2),
        ([1, 40, 41, 1], ["él"], "HeléHel", "length", 4),
        ([1, 40], [], "Hel\ufffd", "length", 2),
        ([1, 40], ["\ufffd"], "Hel", "length", 2),
    ],
)
def test_stop_strings(ids: list[int], stop: list[str], text: str, reason: str, count: int) -> None:
    shown, tokens = visible(ids, WORDS, stop)
    assert (shown, tokens[-1].finish_reason, len(tokens)) == (text, reason, count)


def test_text_is_held_back_no_longer_than_it_must_be() -> None:
    _, tokens = visible([1, 2, 6, 5, 3], WORDS, ["</s>"])
    assert [t.text for t in tokens] == ["Hel", "lo ", "", "<!", "wor"]


@pytest.mark.parametrize("stop", ["a", "ab", "aab", "abab", "bba", "ba"])
def test_every_way_of_cutting_a_text_shows_the_same(stop: str) -> None:
    """A stop string is found wherever the pieces break, and nothing of it is ever shown."""
    text = "bbabaabababb"
    want = text.partition(stop)[0]
    for cuts in range(2 ** (len(text) - 1)):
        if cuts % 7:  # one in seven of the 2048 ways, whatever the stop
            continue
        stops, shown, piece = StopStrings((stop,)), "", ""
        for i, letter in enumerate(text):
            piece += letter
            if cuts >> i & 1 or i == len(text) - 1:
                shown, piece = shown + stops.push(piece), ""
                assert want.startswith(shown) or not stops.found
                if stops.found:
                    break
        shown += "" if stops.found else stops.finish()
        assert shown == want

"""Every family learns: from random numbers, two layers of it come to know a tiny batch by heart.

A model that can be trained overfits; one with a broken gradient, a part that nothing reads or a bad start does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.families.tiny import PATCH, SIDE, VOCABULARY, tiny_config
from vitral.families import families, family, of_config, presets
from vitral.nn import Dual, Memory, Model, initialise
from vitral.nn.draft import drafted

ROWS, LENGTH = 3, 9
STEPS, ENOUGH = 300, 0.05
Loss = Callable[[], Tensor]


@dataclass(frozen=True)
class Unreached:
    """Parameters that no gradient reaches, by how their names begin, and why that is right."""

    beginning: str
    why: str


EXTRA = (
    "t5/v1_1-small",
    "glam/0.1B/64E",
    "qwen15/moe-a2.7b",
    "qwen2/2-57b-a14b",
    "qwen3/30b-a3b",
    "llama3/3.2-11b-vision",
    "gemma3/4b",
)
"""Architectures beside the first of their family."""
PATHS = [f"{name}/{presets(name)[0]}" for name in families() if presets(name)]
PATHS += [path for path in EXTRA if path.partition("/")[2] in presets(path.partition("/")[0])]
CHANGES = {"bert": {"architectures": ["BertForPreTraining"]}}
UNREACHED = {
    "minilm": (Unreached("pooler.", "texts are averaged: the pooler in the file is read by nobody"),),
}


def made(path: str, dtype: torch.dtype = torch.float32) -> Any:
    config = tiny_config(path, **CHANGES.get(path.partition("/")[0], {}))
    spec = of_config(config).spec(config)
    model = spec.build()
    initialise(model, std=0.1, seed=0)
    return model.to(dtype)


# ── what there is to learn, by the form of the model ────────────────────────────────────────────────────────


def lesson(model: Any) -> Loss:
    """The loss of a tiny batch: all that the model answers, held against what was drawn for it."""
    if isinstance(model, Dual):
        return pairs(model)
    if model.encoder is not None:
        return translation(model)
    if model.classifier is not None and not hasattr(model.embed, "tokens"):
        return classes(model)
    if not model.generates:
        return both_sides(model)
    return continuation(model)


def some_ids(length: int = LENGTH) -> Tensor:
    """Rows that differ from the first token on, which does not occur again: a token that sees only its like cannot
    count them (equal values average to themselves). The highest ids are left to special tokens."""
    ids = torch.randint(ROWS, VOCABULARY - 8, (ROWS, length))
    ids[:, 0] = torch.arange(ROWS)
    return ids


def some_pixels(*shape: int) -> Tensor:
    return torch.randn(*shape, 3, SIDE * PATCH, SIDE * PATCH)


def right(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2).float(), targets.flatten())


def continuation(model: Model) -> Loss:
    """Each next token; what else a decoder may have (a number a token, drafts, pictures) beside it."""
    ids = some_ids()
    around = surroundings(model, ids)
    worth = torch.randn(ROWS, LENGTH, 1)

    def loss() -> Tensor:
        hidden = model.hidden(ids, model.step(ids, **around()))
        assert model.head is not None
        found = right(model.head(hidden)[:, :-1], ids[:, 1:])
        if model.score is not None:
            found = found + F.mse_loss(model.score(hidden).float(), worth)
        for ahead, logits in enumerate(drafted(model, ids), 2):
            found = found + right(logits[:, :-1], ids[:, ahead:])
        return found

    return loss


def surroundings(model: Any, ids: Tensor) -> Callable[[], dict[str, Any]]:
    """What the step of a model that sees brings along: soft tokens in the text, or a memory of tiles."""
    if model.vision is None:
        return dict
    if hasattr(model.vision, "memory"):
        pixels, shape = some_pixels(ROWS, 1, 4), torch.tensor([[1], [2], [6]])
        tiles = torch.tensor([[[True, False, False, False]], [[True, True, False, False]], [[True, True, True, True]]])
        return lambda: {"memory": model.vision.memory(pixels.to(model.dtype), shape, tiles)}
    pixels = some_pixels(ROWS)
    ids[:, 2:6] = model.vision.token = VOCABULARY - 1
    return lambda: {"soft": model.show(ids, pixels.to(model.dtype))}


def translation(model: Model) -> Loss:
    """One text to another, from one and the same first token: what differs must come out of the encoder."""
    source, target = some_ids(), some_ids()
    target[:, 0] = 5
    valid = torch.arange(LENGTH) < torch.tensor([[LENGTH], [LENGTH - 3], [LENGTH - 1]])

    def loss() -> Tensor:
        memory: Memory = model.remember(source, valid)
        return right(model(target, model.step(target, memory=memory))[:, :-1], target[:, 1:])

    return loss


def both_sides(model: Model) -> Loss:
    """Every token from both sides where a head guesses tokens, and whether the text is the first of a pair; else texts
    apart from one another by their mean."""
    ids, segments = some_ids(), torch.randint(0, 2, (ROWS, LENGTH))
    hidden_ids = ids.clone()
    hidden_ids[:, 3::4] = VOCABULARY - 1
    first = torch.arange(ROWS) % 2

    def loss() -> Tensor:
        step = model.step(ids)
        if model.head is None:
            texts = [model.hidden(each, model.step(each), segments=segments).mean(1) for each in (ids, hidden_ids)]
            one, other = (F.normalize(text.float(), dim=-1) for text in texts)
            return F.cross_entropy(20 * one @ other.T, torch.arange(ROWS))
        hidden = model.hidden(hidden_ids, step, segments=segments)
        assert model.pooler is not None and model.classifier is not None
        return right(model.head(hidden), ids) + right(model.classifier(model.pooler(hidden, step)), first)

    return loss


def classes(model: Any) -> Loss:
    """What a picture shows."""
    pixels, labels = some_pixels(ROWS), torch.arange(ROWS)

    def loss() -> Tensor:
        seen = pixels.to(model.dtype)
        step = model.step(seen)
        return right(model.classifier(model.pooler(model.hidden(seen, step), step)), labels)

    return loss


def pairs(model: Dual) -> Loss:
    """Which text belongs to which picture."""
    ids, pixels = some_ids(), some_pixels(ROWS)
    ids[:, -1] = VOCABULARY - 1  # the end of text, which is read
    one_each = 2 * torch.eye(ROWS) - 1

    def loss() -> Tensor:
        logits = model(ids, pixels.to(model.dtype)).float()
        if model.bias is not None:
            return -F.logsigmoid(one_each * logits).sum(-1).mean()
        return sum((F.cross_entropy(each, torch.arange(ROWS)) for each in (logits, logits.T)), torch.zeros(()))

    return loss


# ── the tests ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("path", PATHS)
def test_it_learns_a_tiny_batch_by_heart(path: str) -> None:
    torch.manual_seed(1)
    model = made(path)
    loss = lesson(model)
    tuner = torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    reached: set[str] = set()
    for step in range(STEPS):
        tuner.zero_grad()
        value = loss()
        value.backward()
        if step < 8:  # a gate that starts closed lets a gradient through once it has moved
            reached |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
        if value.item() < ENOUGH:
            break
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        tuner.step()
    assert value.item() < ENOUGH, f"after {step + 1} steps the loss is {value.item():.3g}"
    left = {name for name, _ in model.named_parameters()} - reached
    excused = tuple(each.beginning for each in UNREACHED.get(path.partition("/")[0], ()))
    assert {name for name in left if not name.startswith(excused)} == set()
    assert all(any(name.startswith(each) for name in left) for each in excused)


@pytest.mark.parametrize("path", PATHS)
def test_half_precision_stays_finite(path: str) -> None:
    torch.manual_seed(1)
    model = made(path, torch.bfloat16)
    value = lesson(model)()
    value.backward()
    assert value.isfinite()
    assert all(p.dtype == torch.bfloat16 for p in model.parameters())
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_every_open_family_is_taught() -> None:
    assert {path.partition("/")[0] for path in PATHS} == {name for name in families() if hasattr(family(name), "spec")}

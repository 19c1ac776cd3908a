"""Texts → vectors: pooling by hand, batches that change nothing, folders read as they are published."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.nn.tiny import some_ids, tiny
from vitral.errors import CheckpointError
from vitral.generate import embed as rooms
from vitral.generate.embed import Pooling, embed, pool

MODES = ("mean", "cls", "max", "lasttoken")
TRANSFORMER = {"idx": 0, "type": "sentence_transformers.models.Transformer"}
POOLING = {"idx": 1, "type": "sentence_transformers.models.Pooling"}
NORMALIZE = {"idx": 2, "type": "sentence_transformers.models.Normalize"}


def by_hand(hidden: torch.Tensor, mode: str) -> np.ndarray[Any, Any]:
    """One text's hidden states [T, d], pooled in float64."""
    h = hidden.double().numpy()
    return {"mean": h.mean(0), "cls": h[0], "max": h.max(0), "lasttoken": h[-1]}[mode]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["bert", "qwen3"])
def test_every_text_as_if_alone(name: str, mode: Any) -> None:
    """Seventy texts of every length in two batches and a half, in the order they were given."""
    model = tiny(name)
    texts = [some_ids(1, 1 + seed * 7 % 40, seed=seed)[0].tolist() for seed in range(70)]
    got = embed(model, texts, Pooling(mode=mode, normalise=False))
    assert got.shape == (70, 24) and got.dtype == np.float32
    for text, vector in zip(texts, got, strict=True):
        with torch.inference_mode():
            want = by_hand(model.hidden(torch.tensor([text]))[0], mode)
        assert np.abs(vector - want).max() <= 1e-5


def test_normalised_vectors_have_length_one() -> None:
    model, texts = tiny("bert"), [some_ids(1, n)[0].tolist() for n in (3, 9)]
    plain, unit = (embed(model, texts, Pooling(normalise=on)) for on in (False, True))
    assert np.linalg.norm(unit, axis=1) == pytest.approx([1, 1], abs=1e-6)
    assert unit == pytest.approx(plain / np.linalg.norm(plain, axis=1, keepdims=True), abs=1e-6)


def test_no_texts_no_vectors() -> None:
    assert embed(tiny("bert"), [], Pooling()).shape == (0, 24)


def test_padding_has_no_say() -> None:
    hidden = torch.randn(2, 5, 3)
    valid = torch.tensor([[True] * 5, [True, True, False, False, False]])
    wild = hidden.masked_fill(~valid[..., None], 1e6)
    for mode in MODES:
        assert torch.equal(pool(hidden, valid, mode), pool(wild, valid, mode))
        assert pool(wild, valid, mode)[1].numpy() == pytest.approx(by_hand(hidden[1, :2], mode), abs=1e-6)


def test_texts_of_like_length_share_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "BATCH", 2)
    model, shapes = tiny("bert"), []
    model.stack.register_forward_hook(lambda module, args, out: shapes.append(tuple(out.shape[:2])))
    embed(model, [[1] * n for n in (9, 2, 8, 3, 1)], Pooling())
    assert shapes == [(2, 2), (2, 8), (1, 9)]


def test_a_folder_of_sentence_transformers_is_read() -> None:
    pooling = {"word_embedding_dimension": 24, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    read = Pooling.read([TRANSFORMER, POOLING, NORMALIZE], pooling, {"max_seq_length": 256, "do_lower_case": False})
    assert read == Pooling(mode="mean", normalise=True, max_tokens=256)
    read = Pooling.read([TRANSFORMER, POOLING], {"pooling_mode_cls_token": True}, {})
    assert read == Pooling(mode="cls", normalise=False, max_tokens=None)


@pytest.mark.parametrize(
    ("modules", "pooling", "said"),
    [
        (
            [TRANSFORMER, POOLING, {"type": "sentence_transformers.models.Dense"}],
            {"pooling_mode_cls_token": True},
            "Dense",
        ),
        ([TRANSFORMER, POOLING], {}, "must be true"),
        ([TRANSFORMER, POOLING], {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "must be true"),
        ([TRANSFORMER, POOLING], {"pooling_mode_weightedmean_tokens": True}, "pooling_mode_weightedmean_tokens"),
    ],
)
def test_what_is_not_computed_here_is_refused(modules: Any, pooling: Any, said: str) -> None:
    with pytest.raises(CheckpointError, match=said) as error:
        Pooling.read(modules, pooling, {})
    assert "\n" not in str(error.value)

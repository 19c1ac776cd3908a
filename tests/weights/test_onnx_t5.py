"""A T5 out of two ONNX graphs: its config and names, and the real FLAN-T5-small against its own graph."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import vitral
from tests.artefacts import artefact
from tests.references import onnx_graph
from tests.weights import onnx_files as make
from vitral.errors import CheckpointError
from vitral.weights.load import open_checkpoint
from vitral.weights.onnx import OnnxFile

SENTENCE, TRANSLATED = "translate English to German: The house is wonderful.", "Das Haus ist wunderbar."

# ── two small graphs ──────────────────────────────────────────────────────────────────────────────────────────────


def linear(scope: str, rows: int, columns: int) -> tuple[bytes, bytes]:
    """`scope` applied to something: the node, and its anonymous matrix."""
    name = f"onnx::MatMul_{scope}"
    return (
        make.node("MatMul", [f"{scope}.in", name], [f"{scope}.out"], f"/x/{scope.replace('.', '/')}/MatMul"),
        make.tensor(name, np.full((rows, columns), 0.5, np.float32)),
    )


def constant(name: str, value: float) -> tuple[bytes, bytes]:
    return make.node("Constant", [], [name], value=make.tensor("", np.float32(value))), b""


def norm(scope: str, eps: float) -> Iterator[tuple[bytes, bytes]]:
    yield constant(f"{scope}.eps", eps)
    yield make.node("Add", [f"{scope}.sq", f"{scope}.eps"], [f"{scope}.e"], f"/x/{scope}/Add"), b""
    yield make.node("Sqrt", [f"{scope}.e"], [f"{scope}.root"], f"/x/{scope}/Sqrt"), b""
    yield (
        make.node("Mul", [f"x.{scope}.weight", f"{scope}.x"], [f"{scope}.out"], f"/x/{scope.replace('.', '/')}/Mul_1"),
        make.tensor(f"x.{scope}.weight", np.ones(8, np.float32)),
    )


def side(
    decoder: bool,
    *,
    eps: float = 1e-6,
    distance: int = 128,
    act: str = "Tanh",
    table: float = 1.0,
    heads: int = 2,
    head_reads: str = "decoder.final_layer_norm",
    own_head: bool = True,
    extra: tuple[bytes, bytes] | None = None,
) -> bytes:
    """The nodes of one layer of width 8 that name and size its weights; the arithmetic between them is left out."""
    at = "decoder." if decoder else ""
    block, last = f"{at}block.0", 2 if decoder else 1
    ffn = f"{block}.layer.{last}.DenseReluDense"
    exact = 16 if decoder else 8
    tokens, bias = "x.shared.weight", f"x.{block}.layer.0.SelfAttention.relative_attention_bias.weight"
    parts: list[tuple[bytes, bytes]] = [
        (make.node("Gather", [tokens, "ids"], ["rows"]), make.tensor(tokens, np.full((9, 8), table, np.float32))),
        (make.node("Gather", [bias, "places"], ["bias"]), make.tensor(bias, np.zeros((32, heads), np.float32))),
        (make.node("Log", ["far"], ["log"]), b""),
        constant("span", math.log(distance / exact)),
        (make.node("Div", ["log", "span"], ["bucket"]), b""),
        linear(f"{block}.layer.0.SelfAttention.q", 8, 6),
        linear(f"{block}.layer.0.SelfAttention.o", 6, 8),
        linear(f"{ffn}.wi_0", 8, 12),
        linear(f"{ffn}.wi_1", 8, 12),
        (make.node(act, ["wi"], ["wo"], f"/x/{ffn.replace('.', '/')}/act/{act}"), b""),
        *(pair for n in range(last + 1) for pair in norm(f"{block}.layer.{n}.layer_norm", eps)),
        *norm(f"{at}final_layer_norm", eps),
    ]  # fmt: skip
    if decoder and own_head:
        matrix = make.tensor("onnx::MatMul_head", np.ones((8, 9), np.float32))
        parts.append(
            (make.node("MatMul", [f"{head_reads}.out", "onnx::MatMul_head"], ["logits"], "/x/lm_head/MatMul"), matrix)
        )
    nodes, tensors = zip(*(parts + ([extra] if extra else [])), strict=True)
    return make.model(nodes, [tensor for tensor in tensors if tensor])


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    def write(encoder: dict[str, Any] | None = None, decoder: dict[str, Any] | None = None) -> Path:
        (tmp_path / "encoder.onnx").write_bytes(side(False, **(encoder or {})))
        (tmp_path / "decoder.onnx").write_bytes(side(True, **(decoder or {})))
        return tmp_path

    return write


def test_the_graphs_say_what_a_config_would(folder: Any) -> None:
    found = open_checkpoint(folder({"eps": 1e-5, "distance": 64}, {"eps": 1e-5, "distance": 64}))
    said = {
        "vocab_size": 9, "d_model": 8, "d_kv": 3, "d_ff": 12, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 1,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 64, "layer_norm_epsilon": 1e-5,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "model_type": "t5",
    }  # fmt: skip
    assert said.items() <= found.config.items()
    names = found.tensors.names()
    assert {"shared.weight", "lm_head.weight", "encoder.final_layer_norm.weight"} <= set(names)
    assert "decoder.block.0.layer.2.DenseReluDense.wi_1.weight" in names
    assert found.tensors.shape("encoder.block.0.layer.0.SelfAttention.q.weight") == (6, 8)
    assert found.tensors.read("lm_head.weight").shape == (9, 8)


ODD = (make.node("Add", ["a", "x.adapter.weight"], ["b"]), make.tensor("x.adapter.weight", np.ones(3, np.float32)))


@pytest.mark.parametrize(
    ("encoder", "decoder", "says"),
    [
        ({}, {"eps": 1e-5}, "norm's epsilon is not one"),
        ({}, {"distance": 64}, "different distances"),
        ({"act": "Erf"}, {"act": "Erf"}, "feed-forward layers use gelu, gated"),
        ({"act": "Relu"}, {}, "activation is not one"),
        ({"act": "Sigmoid"}, {"act": "Sigmoid"}, "activation is not one"),
        ({"table": 2.0}, {}, "embed the same tokens differently"),
        ({"heads": 5}, {}, "6 channels are not 5 heads"),
        ({}, {"own_head": False}, "its head is the embedding"),
        ({}, {"head_reads": "scaled"}, "does not read the last norm"),
        ({"extra": ODD}, {}, "'x.adapter.weight', which a T5 has not"),
    ],
)
def test_what_the_graphs_do_not_say_is_an_error(encoder: Any, decoder: Any, says: str, folder: Any) -> None:
    with pytest.raises(CheckpointError, match=says):
        open_checkpoint(folder(encoder, decoder))


# ── the real model ────────────────────────────────────────────────────────────────────────────────────────────────


@cache
def graphs() -> tuple[OnnxFile, OnnxFile]:
    place = artefact("flan_t5")
    return OnnxFile(place / "encoder.onnx"), OnnxFile(place / "decoder.onnx")


@cache
def model() -> vitral.LanguageModel:
    return vitral.load(artefact("flan_t5"))


def graph_logits(ids: list[int], written: list[int], *, exact: bool) -> Any:
    """What the published graphs make of it, float [T, V]."""
    encoder, decoder = graphs()
    read = {"input_ids": np.asarray([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
    states = onnx_graph.run(encoder, read, exact=exact)["last_hidden_state"]
    more = {"encoder_hidden_states": states, "encoder_attention_mask": read["attention_mask"]}
    return onnx_graph.run(decoder, {"input_ids": np.asarray([written]), **more}, exact=exact)["logits"][0]


def test_the_real_model_computes_what_its_graph_means() -> None:
    """With activations left unrounded the graph and the model are the same function of the same numbers."""
    lm = model()
    ids = lm.tokenizer.encode("summarize: " + "The agent edited the tokenizer and ran its tests. " * 12)
    assert len(ids) > 128, "longer than the relative positions tell apart"
    written = [0, *lm.tokenizer.encode(TRANSLATED)]
    ours = lm.logits([ids], decoder_input_ids=[written])[0].numpy()
    theirs = graph_logits(ids, written, exact=True)
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()
    rounded = graph_logits(ids, written, exact=False)
    alike = [np.corrcoef(mine, other)[0, 1] for mine, other in zip(ours, rounded, strict=True)]
    assert np.mean(alike) > 0.9, "8-bit activations move the logits, but not to another model's"


def test_the_real_model_translates() -> None:
    assert model().generate(SENTENCE, max_tokens=20).text == TRANSLATED


def test_the_real_model_goes_to_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    lm = model()
    lm.save(tmp_path)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    ids, written = lm.tokenizer.encode(SENTENCE), [0, *lm.tokenizer.encode(TRANSLATED)]
    with torch.no_grad():
        expected = theirs(input_ids=torch.tensor([ids]), decoder_input_ids=torch.tensor([written])).logits
    ours = lm.logits([ids], decoder_input_ids=[written])
    torch.testing.assert_close(ours / expected.std(), expected / expected.std(), rtol=0, atol=1e-5)
    answer = theirs.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0]
    assert lm.tokenizer.decode(answer.tolist()) == TRANSLATED

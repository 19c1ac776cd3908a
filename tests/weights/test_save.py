"""Models → folders: whole or not at all, readable by others, and the same when read again."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.nn.tiny import CONFIGS, some_ids, tiny
from vitral.errors import VitralError
from vitral.families import family
from vitral.weights.gguf_config import pooling_of
from vitral.weights.load import load_model, open_checkpoint
from vitral.weights.save import published_config, published_tensors, save_folder, save_gguf


def save(path: Path, name: str = "llama3", **options: Any) -> Path:
    options = {"config": CONFIGS[name], "dtype": "float32", **options}
    return save_folder(path, model=options.pop("model", None) or tiny(name), names=family(name).NAMES, **options)


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", list(CONFIGS))
@pytest.mark.parametrize("max_shard_bytes", [5_000_000_000, 4000])
def test_a_folder_reads_back_to_the_bit(tmp_path: Path, name: str, max_shard_bytes: int) -> None:
    model = tiny(name)
    folder = save(tmp_path / "x", name, model=model, max_shard_bytes=max_shard_bytes)
    again = load_model(open_checkpoint(folder))[0]
    assert torch.equal(model(some_ids()), again(some_ids()))
    shards = list(folder.glob("model-*.safetensors"))
    assert bool(shards) == (max_shard_bytes == 4000)
    for path in shards:
        tensors = load_file(path)
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 4000


def test_the_index_names_every_tensor_once(tmp_path: Path) -> None:
    folder = save(tmp_path / "x", max_shard_bytes=4000)
    index = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))
    held = {name: path.name for path in folder.glob("model-*.safetensors") for name in load_file(path)}
    assert index["weight_map"] == held
    model = tiny("llama3")
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in model.parameters())


def test_what_is_shared_is_written_once() -> None:
    model = tiny("llama3", tie_word_embeddings=True)
    names = [name for name, _ in published_tensors(model, family("llama3").NAMES)]
    assert "lm_head.weight" not in names
    assert len(names) == len(set(names)) == len(list(model.parameters()))


def test_the_config_is_the_published_one(tmp_path: Path) -> None:
    config = {**CONFIGS["bert"], "_vitral_heads": ["masked"], "torch_dtype": "float16"}
    folder = save(tmp_path / "x", "bert", config=config, dtype="bfloat16", model=tiny("bert").bfloat16())
    written = json.loads((folder / "config.json").read_text("utf-8"))
    assert written == {**CONFIGS["bert"], "dtype": "bfloat16"} == published_config(config, "bfloat16")
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.bfloat16}


def test_a_body_is_written_under_the_names_of_a_body(tmp_path: Path) -> None:
    config = {**CONFIGS["llama3"], "architectures": ["LlamaModel"]}
    folder = save(tmp_path / "x", model=tiny("llama3", architectures=["LlamaModel"]), config=config)
    names = set(load_file(folder / "model.safetensors"))
    assert "embed_tokens.weight" in names and not any(name.startswith(("model.", "lm_head")) for name in names)


def test_an_existing_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    save(tmp_path / "x")
    assert everything(tmp_path / "x") == ["config.json", "model.safetensors"]


def test_missing_parents_are_made(tmp_path: Path) -> None:
    assert (save(tmp_path / "a" / "b" / "x") / "config.json").exists()


@pytest.mark.parametrize("what", ["file", "hidden", "folder"])
def test_nothing_is_ever_overwritten(tmp_path: Path, what: str) -> None:
    target = tmp_path / "x"
    if what == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / (".mine" if what == "hidden" else "mine")).write_text("mine")
    before = everything(tmp_path)
    with pytest.raises(VitralError, match="exists and is not empty") as error:
        save(target)
    assert "\n" not in str(error.value)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("fault", [OSError("disk full"), KeyboardInterrupt(), VitralError("no")])
@pytest.mark.parametrize("exists", [False, True])
def test_an_interrupted_save_leaves_nothing(tmp_path: Path, fault: BaseException, exists: bool) -> None:
    if exists:
        (tmp_path / "x").mkdir()

    def break_off(place: Path) -> None:
        assert (place / "model.safetensors").exists()
        assert not list((tmp_path / "x").glob("*"))
        raise fault

    with pytest.raises(VitralError if isinstance(fault, OSError) else type(fault)):
        save(tmp_path / "x", also=break_off)
    assert everything(tmp_path) == (["x"] if exists else [])


def test_a_fault_between_two_shards_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitral.weights import safetensors

    write, calls = safetensors.save_file, []

    def fail_third(*args: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise OSError("disk full")
        write(*args, **options)

    monkeypatch.setattr(safetensors, "save_file", fail_third)
    with pytest.raises(VitralError, match="disk full"):
        save(tmp_path / "x", max_shard_bytes=4000)
    assert everything(tmp_path) == []


def test_more_files_travel_along(tmp_path: Path) -> None:
    folder = save(tmp_path / "x", also=lambda place: (place / "tokenizer.json").write_text("{}"))
    assert everything(folder) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert everything(tmp_path) == ["x", *(f"x/{name}" for name in everything(folder))]
    assert folder.stat().st_mode & 0o777 == 0o755


# ── GGUF ────────────────────────────────────────────────────────────────────────────────────────────────────


def gguf(path: str | Path, name: str = "llama3", model: Any = None, changes: Any = None, **options: Any) -> Path:
    config = {**CONFIGS[name], **(changes or {})}
    fields = {"tokenizer.ggml.tokens": [f"t{n}" for n in range(50)]}
    return save_gguf(
        path, model=model or tiny(name, **(changes or {})), names=family(name).NAMES, config=config,
        tokenizer_fields=fields, **options,
    )  # fmt: skip


def test_a_gguf_file_reads_back_to_the_bit(tmp_path: Path) -> None:
    model = tiny("llama3")
    path = gguf(tmp_path / "a" / "x.gguf", model=model)
    assert torch.equal(load_model(open_checkpoint(path))[0](some_ids()), model(some_ids()))
    assert everything(tmp_path) == ["a", "a/x.gguf"]


def test_a_gguf_file_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_text("mine")
    with pytest.raises(VitralError, match="exists"):
        gguf(tmp_path / "x.gguf")
    assert (tmp_path / "x.gguf").read_text() == "mine"


@pytest.mark.parametrize("name", ["noext", "x.bin", "x.gguf.old", "gguf"])
def test_a_gguf_file_is_called_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(VitralError, match=r"\.gguf") as error:
        gguf(tmp_path / name)
    assert "\n" not in str(error.value)
    assert everything(tmp_path) == []


@pytest.mark.parametrize("name", ["llama3", "qwen3"])
def test_a_decoder_without_a_head_is_no_gguf(tmp_path: Path, name: str) -> None:
    """It would come back as a generating model with a head nobody trained."""
    body = {"architectures": [f"{family(name).MODEL_TYPE.capitalize()}Model"]}
    with pytest.raises(VitralError, match="no head"):
        gguf(tmp_path / "a" / "x.gguf", name, changes=body)
    assert everything(tmp_path) == []


def test_the_heads_of_an_encoder_are_not_lost_in_silence(tmp_path: Path) -> None:
    model = tiny("bert")
    with pytest.raises(VitralError, match=r"body of an encoder.*--to hf"):
        gguf(tmp_path / "x.gguf", "bert", model=model)
    assert everything(tmp_path) == []
    model.head = model.classifier = None  # the remedy
    again = load_model(open_checkpoint(gguf(tmp_path / "x.gguf", "bert", model=model)))[0]
    assert torch.equal(
        again.hidden(some_ids(), again.step(some_ids())), model.hidden(some_ids(), model.step(some_ids()))
    )


def test_pooling_travels_in_a_gguf_file(tmp_path: Path) -> None:
    model = tiny("bert", architectures=["BertModel"])
    path = gguf(tmp_path / "x.gguf", "bert", model=model, pooling=("cls", 128))
    assert pooling_of(open_checkpoint(path).metadata) == ("cls", 128)


# ── places ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("write", [save, gguf])
@pytest.mark.parametrize("place", ["file/x.gguf", "file/a/x.gguf", "a/" + "b" * 300 + "/x.gguf"])
def test_an_impossible_place_is_one_line_and_leaves_nothing(tmp_path: Path, write: Any, place: str) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(VitralError, match="cannot be written") as error:
        write(tmp_path / place)
    assert "\n" not in str(error.value)
    assert everything(tmp_path) == ["file"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="everything is writable to an administrator")
@pytest.mark.parametrize("write", [save, gguf])
def test_an_unwritable_place(tmp_path: Path, write: Any) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(VitralError, match="cannot be written"):
            write(tmp_path / "a" / "x.gguf")
    finally:
        tmp_path.chmod(0o700)
    assert everything(tmp_path) == []


def test_folders_made_for_a_save_that_fails_go_again(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()

    def break_off(place: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(VitralError, match=r"cannot be written: No space left on device"):
        save(tmp_path / "mine" / "a" / "b" / "x", also=break_off)
    assert everything(tmp_path) == ["mine"]


def test_a_place_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert save("~/x") == tmp_path / "x"  # type: ignore[arg-type]
    assert gguf("~/x.gguf") == tmp_path / "x.gguf"
    assert not (tmp_path / "~").exists()
    with pytest.raises(VitralError, match="~nobody-at-all"):
        gguf("~nobody-at-all/x.gguf")

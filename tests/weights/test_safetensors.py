"""Safetensors: what the library writes we read equal, what we write it reads equal, and damage is an error."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from vitral.errors import CheckpointError
from vitral.weights.safetensors import DTYPES, SafetensorsFile, SafetensorsFolder, TensorSource, write_safetensors


def _tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {f"t.{n}": torch.randn(3, 5 + n) for n in range(4)} | {"ids": torch.arange(7), "none": torch.empty(0, 4)}


def _raw(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def _entry(start: int, stop: int, *, shape: Any = None, dtype: Any = "U8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [stop - start] if shape is None else shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_every_dtype_reads_as_the_library_wrote_it(dtype: str, tmp_path: Path) -> None:
    bits = torch.arange(48, dtype=torch.uint8)
    tensor = (bits % 2).bool() if dtype == "BOOL" else bits.view(DTYPES[dtype])
    save_file({"x": tensor.reshape(2, -1)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    source = SafetensorsFolder(tmp_path)
    assert isinstance(source, TensorSource)
    assert (source.names(), source.shape("x"), source.dtype("x")) == (["x"], (2, tensor.numel() // 2), dtype)
    found = source.read("x")
    assert found.dtype == DTYPES[dtype]
    assert torch.equal(found.view(torch.uint8), tensor.reshape(2, -1).view(torch.uint8))
    assert source.metadata == {"format": "pt"}


def test_a_tensor_at_an_odd_offset_reads_equal(tmp_path: Path) -> None:
    values = torch.tensor([1.5, -2.0])
    data = b"abc" + bytes(values.numpy().tobytes())
    header = {"a": _entry(0, 3), "b": _entry(3, 11, shape=[2], dtype="F32")}
    assert torch.equal(SafetensorsFile(_raw(tmp_path / "x.safetensors", header, data)).read("b"), values)


def test_changing_what_was_read_leaves_the_file_alone(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(4)}, tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    SafetensorsFolder(tmp_path).read("x").fill_(7.0)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_one_file_written_and_read_back_by_both(tmp_path: Path) -> None:
    tensors = _tensors()
    assert write_safetensors(tmp_path, tensors) == [tmp_path / "model.safetensors"]
    reference, source = load_file(tmp_path / "model.safetensors"), SafetensorsFolder(tmp_path)
    assert set(reference) == set(tensors) == set(source.names())
    assert all(torch.equal(reference[n], t) and torch.equal(source.read(n), t) for n, t in tensors.items())


def test_shards_hold_each_tensor_once_within_the_limit(tmp_path: Path) -> None:
    tensors = _tensors()
    files = write_safetensors(tmp_path, tensors, max_shard_bytes=150)
    assert len(files) > 3
    assert files[-1].name == "model.safetensors.index.json"
    index = json.loads(files[-1].read_text())
    assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in tensors.values())
    for path in files[:-1]:
        held = load_file(path)
        assert set(held) == {name for name, shard in index["weight_map"].items() if shard == path.name}
        assert len(held) == 1 or sum(t.numel() * t.element_size() for t in held.values()) <= 150
    source = SafetensorsFolder(tmp_path)
    assert all(torch.equal(source.read(name), tensor) for name, tensor in tensors.items())


def test_writing_again_leaves_nothing_of_the_old_layout(tmp_path: Path) -> None:
    write_safetensors(tmp_path, _tensors(), max_shard_bytes=150)
    write_safetensors(tmp_path, {"x": torch.ones(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    write_safetensors(tmp_path, _tensors(), max_shard_bytes=150)
    assert not (tmp_path / "model.safetensors").exists()
    assert set(SafetensorsFolder(tmp_path).names()) == set(_tensors())


def test_tensors_that_share_memory_and_views_are_written_whole(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    write_safetensors(tmp_path, {"a": base, "b": base, "c": base.t(), "d": base[1:]})
    source = SafetensorsFolder(tmp_path)
    assert torch.equal(source.read("b"), base)
    assert torch.equal(source.read("c"), base.t())
    assert torch.equal(source.read("d"), base[1:])


def test_a_failed_write_keeps_the_old_file_and_leaves_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_safetensors(tmp_path, {"x": torch.ones(2)})

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vitral.weights.safetensors.save_file", full)
    with pytest.raises(OSError, match="No space"):
        write_safetensors(tmp_path, {"x": torch.zeros(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert torch.equal(SafetensorsFolder(tmp_path).read("x"), torch.ones(2))


@pytest.mark.parametrize(
    ("header", "data", "message"),
    [
        ({"a": _entry(0, 4), "b": _entry(2, 6)}, b"123456", "overlaps"),
        ({"a": _entry(0, 2), "b": _entry(4, 6)}, b"123456", "gap"),
        ({"a": _entry(2, 6)}, b"123456", "gap"),
        ({"a": _entry(0, 4)}, b"123456", "2 bytes follow"),
        ({"a": _entry(0, 8)}, b"123456", "cut short"),
        ({"a": _entry(0, 4, shape=[3])}, b"1234", "needs 3 bytes but has 4"),
        ({"a": _entry(0, 4, shape=[2**62, 2**62, 4])}, b"1234", "needs"),
        ({"a": _entry(0, 4, shape=[-4])}, b"1234", "shape"),
        ({"a": _entry(0, 4, shape=[True] * 4)}, b"1234", "shape"),
        ({"a": _entry(0, 4, shape=[4.0])}, b"1234", "shape"),
        ({"a": _entry(0, 4, shape=[4] + [1] * 5000)}, b"1234", "shape"),
        ({"a": _entry(0, 4, dtype="F4")}, b"1234", "dtype 'F4'"),
        ({"a": _entry(0, 4, dtype=["U8"])}, b"1234", "dtype"),
        ({"a": {**_entry(0, 4), "data_offsets": [4, 0]}}, b"1234", "data_offsets"),
        ({"a": {**_entry(0, 4), "data_offsets": [0, 2**64]}}, b"1234", "data_offsets"),
        ({"a": {**_entry(0, 4), "extra": 1}}, b"1234", "exactly"),
        ({"a": 7}, b"", "exactly"),
        ({"__metadata__": {"format": 1}}, b"", "__metadata__"),
        ([1], b"", "not a JSON object"),
        (b'{"a":1,"a":2}', b"", "'a' occurs twice"),
        (b'{"a":NaN}', b"", "NaN"),
        (b'{"a":' + b"[" * 100_000, b"", "does not parse"),
        (b'{"a":' + b"9" * 5000 + b"}", b"", "does not parse"),
        (b'{"\xff\xfe":1}', b"", "not UTF-8"),
        (b"{ ", b"", "does not parse"),
    ],
)
def test_a_broken_header_is_an_error_that_says_why(header: Any, data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        SafetensorsFile(_raw(tmp_path / "x.safetensors", header, data))


@pytest.mark.parametrize("length", [0, 11, 2**31, 100_000_001, 2**63, 2**64 - 1])
def test_a_header_length_is_held_against_the_file(length: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}        ")
    with pytest.raises(CheckpointError, match="header"):
        SafetensorsFile(path)


def test_every_truncation_and_every_header_bit_flip_is_an_error_or_harmless(tmp_path: Path) -> None:
    """No cut file opens; a flipped header bit either raises our error or leaves a file of the same total size."""
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.arange(4.0), "b": torch.ones(2, 3)}, path)
    good = path.read_bytes()
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(CheckpointError):
            SafetensorsFile(path)
    for bit in range(8 * (8 + struct.unpack("<Q", good[:8])[0])):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        try:
            source = SafetensorsFile(path)
        except CheckpointError:
            continue
        assert sum(source.read(n).numel() * source.read(n).element_size() for n in source.names()) == 40


def test_random_damage_never_raises_anything_else(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file(_tensors(), path, metadata={"format": "pt"})
    good, chance = path.read_bytes(), random.Random(1)
    for _ in range(1500):
        bad = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(bad) if chance.random() < 0.2 else 400)
            bad[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
        path.write_bytes(bad)
        try:
            source = SafetensorsFile(path)
        except CheckpointError:
            continue
        for name in source.names():
            source.read(name)


def _sharded(folder: Path) -> dict[str, Any]:
    save_file({"a": torch.ones(2)}, folder / "model-00001-of-00002.safetensors")
    save_file({"b": torch.ones(3)}, folder / "model-00002-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    return {"metadata": {"total_size": 20}, "weight_map": shards}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c": "model-00001-of-00002.safetensors"}, "'c' is listed"),
        ({"a": "model-00002-of-00002.safetensors"}, "'a' is listed|only"),
        ({"b": None}, "'b'|file names"),
        ({"a": "model-00003-of-00002.safetensors"}, "does not exist"),
        ({"a": "../model-00001-of-00002.safetensors"}, "plain file name"),
        ({"a": "/etc/passwd.safetensors"}, "plain file name"),
        ({"a": "C:\\x.safetensors"}, "plain file name"),
        ({"a": "a\0b.safetensors"}, "plain file name"),
        ({"a": "CON.safetensors"}, "plain file name"),
        ({"a": "x" * 5000 + ".safetensors"}, "plain file name"),
        ({"a": "pytorch_model.bin"}, "not a safetensors file"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    index = _sharded(tmp_path)
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps(index))
    assert SafetensorsFolder(tmp_path).names() == ["a", "b"]
    index["weight_map"] |= change
    path.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=message):
        SafetensorsFolder(tmp_path)


def test_a_tensor_the_index_forgot_is_refused(tmp_path: Path) -> None:
    index = _sharded(tmp_path)
    save_file({"b": torch.ones(3), "z": torch.ones(1)}, tmp_path / "model-00002-of-00002.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="'z' is in model-00002-of-00002"):
        SafetensorsFolder(tmp_path)


def test_links_stay_inside_the_folder_or_a_hub_cache(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "repo" / "blobs", tmp_path / "repo" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    save_file({"x": torch.ones(1)}, blobs / "0123")
    (snapshot / "model.safetensors").symlink_to(os.path.relpath(blobs / "0123", snapshot))
    assert SafetensorsFolder(snapshot).names() == ["x"]

    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "model.safetensors").symlink_to(blobs / "0123")
    with pytest.raises(CheckpointError, match="leads outside"):
        SafetensorsFolder(plain)


def test_a_file_of_another_name_serves_when_it_is_alone(tmp_path: Path) -> None:
    save_file({"x": torch.ones(1)}, tmp_path / "weights.safetensors")
    assert SafetensorsFolder(tmp_path).names() == ["x"]
    save_file({"y": torch.ones(1)}, tmp_path / "more.safetensors")
    with pytest.raises(CheckpointError, match="nothing says which"):
        SafetensorsFolder(tmp_path)


class _Canary:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (os.environ["CANARY"],)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "x.ckpt", "tf_model.h5", "f.msgpack"])
def test_pickles_are_refused_unopened(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", str(tmp_path / "opened"))
    (tmp_path / name).write_bytes(pickle.dumps(_Canary()))
    with pytest.raises(CheckpointError, match=rf"{name}.*only safetensors and GGUF.*save_pretrained"):
        SafetensorsFolder(tmp_path)
    (tmp_path / name).rename(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError):
        SafetensorsFolder(tmp_path)
    assert not (tmp_path / "opened").exists()


def test_missing_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no weights"):
        SafetensorsFolder(tmp_path)
    with pytest.raises(CheckpointError, match="not a folder"):
        SafetensorsFolder(tmp_path / "absent")
    save_file({"x": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no tensor 'q'"):
        SafetensorsFolder(tmp_path).read("q")

"""GGUF: equal to llama.cpp's own reader and writer, and no damage gets past the check."""

from __future__ import annotations

import random
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from tests.artefacts import artefact
from tests.weights.crafted import array, gguf_file, pair, tensor, text
from vitral.errors import CheckpointError, VitralError
from vitral.weights.gguf import GGUFFile, write_gguf
from vitral.weights.quants import KINDS
from vitral.weights.safetensors import TensorSource

ONE = struct.pack("<f", 1.0).ljust(32, b"\0")


def _open(path: Path, content: bytes) -> GGUFFile:
    path.write_bytes(content)
    return GGUFFile(path)


def test_every_kind_reads_as_llama_cpp_reads_it(tmp_path: Path) -> None:
    path, rng = tmp_path / "x.gguf", np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    blocks = {}
    for name, kind in KINDS.items():
        raw = rng.integers(0, 120, (3, 2, 2 * kind.bytes), dtype=np.uint8)
        blocks[name] = raw
        writer.add_tensor(name, raw, raw_shape=raw.shape, raw_dtype=gguf.GGMLQuantizationType[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source = GGUFFile(path)
    assert isinstance(source, TensorSource)
    for reference in gguf.GGUFReader(path).tensors:
        name = reference.name
        assert source.kind(name) == name
        assert np.array_equal(source.raw(name), blocks[name].reshape(-1))
        found = source.read(name)
        assert tuple(found.shape) == source.shape(name) == (3, 2, 2 * KINDS[name].weights)
        if name.startswith("I"):
            assert source.dtype(name) == name
            assert np.array_equal(found.numpy().reshape(-1).view(np.uint8), blocks[name].reshape(-1))
        elif name == "F64":
            assert found.dtype == torch.float32
        else:
            expected = gguf.quants.dequantize(blocks[name], gguf.GGMLQuantizationType[name])
            assert np.array_equal(found.numpy().view("u4"), np.ascontiguousarray(expected).view("u4"))


def test_metadata_of_every_type(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    values = {
        "uint8": 200, "int8": -100, "uint16": 60000, "int16": -30000, "uint32": 2**32 - 1, "int32": -(2**31),
        "uint64": 2**64 - 1, "int64": -(2**63), "float32": 0.5, "float64": 0.1, "bool": True, "string": "ação 🐈",
    }  # fmt: skip
    writer = gguf.GGUFWriter(path, "llama")
    for kind, value in values.items():
        getattr(writer, f"add_{kind}")(kind, value)
    lists = {"words": ["a", "", "ção"], "numbers": [1, -2, 3], "fractions": [0.5, -1.5], "flags": [True, False]}
    for key, items in lists.items():
        writer.add_array(key, items)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = GGUFFile(path).metadata
    assert found == {"general.architecture": "llama", **values, **lists}
    assert {key: type(value) for key, value in found.items() if key in values} == {
        key: type(value) for key, value in values.items()
    }


def test_nested_arrays_and_version_2(tmp_path: Path) -> None:
    nested = array(9, 2, array(4, 2, struct.pack("<2I", 1, 2)) + array(8, 1, text("x")))
    content = gguf_file(version=2, pairs=[pair("n", 9, nested)], tensors=[tensor("t", [1])], data=ONE)
    found = _open(tmp_path / "x.gguf", content)
    assert found.metadata == {"n": [[1, 2], ["x"]]}
    assert found.read("t").tolist() == [1.0]


def test_another_alignment(tmp_path: Path) -> None:
    content = gguf_file(
        pairs=[pair("general.alignment", 4, struct.pack("<I", 128))],
        tensors=[tensor("a", [1]), tensor("b", [2], offset=128)],
        data=ONE.ljust(128, b"\0") + struct.pack("<2f", 2.0, 3.0),
        alignment=128,
    )
    assert _open(tmp_path / "x.gguf", content).read("b").tolist() == [2.0, 3.0]


def test_changing_what_was_read_leaves_the_file_alone(tmp_path: Path) -> None:
    content = gguf_file(tensors=[tensor("t", [1])], data=ONE)
    _open(tmp_path / "x.gguf", content).read("t").fill_(7.0)
    assert (tmp_path / "x.gguf").read_bytes() == content


DEEP = b"".join(struct.pack("<IQ", 9, 1) for _ in range(1000)) + array(4, 0, b"")
BAD: dict[str, tuple[bytes, str]] = {
    "empty file": (b"", "empty"),
    "another format": (b"PK\3\4" + bytes(60), "not a GGUF file"),
    "version 1": (gguf_file(version=1), "version is 1"),
    "version 99": (gguf_file(version=99), "version is 99"),
    "big-endian": (gguf_file(version=3 << 24), "big-endian"),
    "2^63 keys": (gguf_file(n_pairs=2**63), "metadata keys"),
    "2^64-1 tensors": (gguf_file(n_tensors=2**64 - 1), "tensors"),
    "more keys than bytes": (gguf_file(n_pairs=60000), "60000 metadata keys"),
    "more tensors than bytes": (gguf_file(n_tensors=60000), "60000 tensors"),
    "key length 2^64-1": (gguf_file(pairs=[b"\xff" * 8 + b"x" * 8]), "claims 18446744073709551615 bytes"),
    "key not UTF-8": (gguf_file(pairs=[pair(b"\xff\xfe", 4, bytes(4))]), "not UTF-8"),
    "string longer than the file": (gguf_file(pairs=[pair("k", 8, struct.pack("<Q", 2**24))]), "cut short"),
    "string not UTF-8": (gguf_file(pairs=[pair("k", 8, text(b"\xc3\x28"))]), "not UTF-8"),
    "unknown value type": (gguf_file(pairs=[pair("k", 13, bytes(8))]), "unknown type 13"),
    "unknown item type": (gguf_file(pairs=[pair("k", 9, array(13, 1, bytes(8)))]), "unknown type 13"),
    "truth value of 2": (gguf_file(pairs=[pair("k", 7, b"\2"), pair("l", 4, bytes(4))]), "truth value of 2"),
    "array of 2^62 items": (gguf_file(pairs=[pair("k", 9, array(4, 2**62, b""))]), "items"),
    "array longer than the file": (gguf_file(pairs=[pair("k", 9, array(4, 2**20, b""))]), "items"),
    "strings longer than the file": (gguf_file(pairs=[pair("k", 9, array(8, 2**20, b""))]), "items"),
    "arrays 1000 deep": (gguf_file(pairs=[pair("k", 9, DEEP)]), "deep"),
    "key twice": (gguf_file(pairs=[pair("k", 4, bytes(4))] * 2), "'k' occurs twice"),
    "tensor twice": (gguf_file(tensors=[tensor("t", [1]), tensor("t", [1], offset=32)], data=ONE * 2), "'t' occurs"),
    "tensor name not UTF-8": (gguf_file(tensors=[tensor(b"\xff", [1])], data=ONE), "not UTF-8"),
    "5000 dimensions": (gguf_file(tensors=[tensor("t", [1], n_dims=5000)], data=ONE), "5000 dimensions"),
    "no dimensions": (gguf_file(tensors=[tensor("t", [])], data=ONE), "0 dimensions"),
    "a dimension of 0": (gguf_file(tensors=[tensor("t", [0])], data=ONE), "dimensions"),
    "a negative dimension": (gguf_file(tensors=[tensor("t", [2**64 - 1])], data=ONE), "dimensions"),
    "a product that overflows": (gguf_file(tensors=[tensor("t", [2**32, 2**32])], data=ONE), "cut short"),
    "a row that is no whole block": (gguf_file(tensors=[tensor("t", [33, 2], kind=2)], data=ONE * 2), "dimensions"),
    "offset past the end": (gguf_file(tensors=[tensor("t", [1], offset=2**63)], data=ONE), "cut short"),
    "offset off the grid": (gguf_file(tensors=[tensor("t", [1], offset=16)], data=ONE * 2), "multiple of 32"),
    "overlap": (gguf_file(tensors=[tensor("a", [9]), tensor("b", [9], offset=32)], data=ONE * 4), "overlaps"),
    "gap": (gguf_file(tensors=[tensor("a", [1]), tensor("b", [1], offset=64)], data=ONE * 3), "gap"),
    "a gap at the start": (gguf_file(tensors=[tensor("a", [1], offset=32)], data=ONE * 2), "gap"),
    "bytes after the last tensor": (gguf_file(tensors=[tensor("t", [1])], data=ONE * 3), "64 bytes follow"),
    "a tensor cut short": (gguf_file(tensors=[tensor("t", [8])], data=ONE[:31]), "cut short"),
    "alignment 0": (gguf_file(pairs=[pair("general.alignment", 4, bytes(4))]), "power of two"),
    "alignment 3": (gguf_file(pairs=[pair("general.alignment", 4, b"\3\0\0\0")]), "power of two"),
    "alignment 2^31": (gguf_file(pairs=[pair("general.alignment", 4, b"\0\0\0\x80")]), "power of two"),
    "alignment as text": (gguf_file(pairs=[pair("general.alignment", 8, text("32"))]), "power of two"),
    "a kind we do not read": (gguf_file(tensors=[tensor("t", [256], kind=16)], data=bytes(66)), "IQ2_XXS.*Q4_K"),
    "a kind nobody knows": (gguf_file(tensors=[tensor("t", [1], kind=999)], data=ONE), "number 999.*Q4_K"),
    "one part of several": (gguf_file(pairs=[pair("split.count", 2, b"\2\0")]), "split"),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_a_damaged_file_is_an_error_that_says_why(case: str, tmp_path: Path) -> None:
    content, message = BAD[case]
    with pytest.raises(CheckpointError, match=message) as caught:
        _open(tmp_path / "x.gguf", content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(tmp_path))


_MEASURE = """
import resource, sys
from pathlib import Path
from vitral.errors import CheckpointError
from vitral.weights.gguf import GGUFFile
from vitral.weights.safetensors import SafetensorsFile
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
before, refused = peak(), 0
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        (GGUFFile if path.suffix == ".gguf" else SafetensorsFile)(path)
    except CheckpointError:
        refused += 1
print(refused, peak() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
def test_damaged_files_take_no_memory(tmp_path: Path) -> None:
    for number, (content, _) in enumerate(BAD.values()):
        (tmp_path / f"{number}.gguf").write_bytes(content)
    # Files that are large without taking disk, whose claims fit them: only the caps stand between claim and memory.
    claims = {
        "keys": gguf_file(n_pairs=2**25),
        "items": gguf_file(pairs=[pair("k", 9, array(0, 2**28, b""))]),
        "strings": gguf_file(pairs=[pair("k", 9, array(8, 2**26, b""))]),
        "text": gguf_file(pairs=[pair("k", 8, struct.pack("<Q", 2**29))]),
    }
    for name, content in claims.items():
        with (tmp_path / f"{name}.gguf").open("wb") as file:
            file.write(content)
            file.truncate(2**30)
    for length in (2**64 - 1, 100_000_000, 2**29):
        with (tmp_path / f"{length}.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", length))
            file.truncate(2**30)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    refused, grown = map(int, done.stdout.split())
    assert refused == len(BAD) + len(claims) + 3
    assert grown < 64 << 20


def _small(path: Path) -> bytes:
    fields = {"general.architecture": "llama", "list": ["a", "bc"], "numbers": [1, 2, 3], "flag": True, "x": 0.5}
    values = [(f"blk.{n}.w.weight", torch.ones(2, 32)) for n in range(3)]
    return write_gguf(path, fields, values, "Q8_0").read_bytes()


def test_every_truncation_is_an_error(tmp_path: Path) -> None:
    good = _small(tmp_path / "good.gguf")
    end = good.rstrip(b"\0")  # the last tensor's padding may be missing, nothing else
    for size in range(len(end)):
        with pytest.raises(CheckpointError):
            _open(tmp_path / "x.gguf", good[:size])


def test_random_damage_never_raises_anything_else(tmp_path: Path) -> None:
    good, chance = _small(tmp_path / "good.gguf"), random.Random(1)
    head = good.index(b"blk.2") + 60
    for _ in range(2500):
        bad = bytearray(good)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(head)
            if chance.random() < 0.5:
                bad[at] ^= 1 << chance.randrange(8)
            else:
                bad[at : at + chance.choice((1, 4, 8))] = chance.choice(
                    (b"\xff" * 8, bytes(8), chance.randbytes(4), b"")
                )
        try:
            source = _open(tmp_path / "x.gguf", bytes(bad))
        except CheckpointError:
            continue
        for name in source.names():
            source.read(name)


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0"])
def test_what_we_write_llama_cpp_s_reader_reads(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        "a.weight": torch.randn(6, 64),
        "odd.weight": torch.randn(4, 33),
        "a.bias": torch.randn(6),
        "norm.weight": torch.randn(64),
        "position_embd.weight": torch.randn(4, 64),
        "cube.weight": torch.randn(2, 3, 32).transpose(0, 1),
    }
    fields: dict[str, Any] = {
        "general.architecture": "llama", "n": 7, "big": 2**40, "less": -3, "far": -(2**40), "x": 0.25, "yes": True,
        "text": "ação", "words": ["a", ""], "numbers": [1, -1], "fractions": [0.5], "flags": [True], "map": b"\1\2",
    }  # fmt: skip
    path = write_gguf(tmp_path / "x.gguf", fields, tensors.items(), kind)
    reader = gguf.GGUFReader(path)
    expected = {**fields, "map": [1, 2]}
    assert {key: reader.fields[key].contents() for key in expected} == expected
    assert GGUFFile(path).metadata == {"general.file_type": gguf.LlamaFileType[_FILE_TYPE[kind]].value, **expected}
    kinds = dict.fromkeys(tensors, "F32")
    if kind != "F32":
        kinds |= {"a.weight": kind, "cube.weight": kind, "odd.weight": "F16"}
    assert {t.name: t.tensor_type.name for t in reader.tensors} == kinds
    ours = GGUFFile(path)
    for found in reader.tensors:
        values = tensors[found.name].numpy()
        stored = gguf.quants.quantize(values, found.tensor_type)
        assert np.array_equal(found.data, stored)
        assert np.array_equal(ours.read(found.name).numpy(), gguf.quants.dequantize(stored, found.tensor_type))
    assert [p.name for p in tmp_path.iterdir()] == ["x.gguf"]


_FILE_TYPE = {"F32": "ALL_F32", "F16": "MOSTLY_F16", "Q8_0": "MOSTLY_Q8_0"}


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    before = write_gguf(path, {}, [("a", torch.ones(1))]).read_bytes()

    def broken() -> Any:
        yield "a.weight", torch.ones(2, 2)
        raise RuntimeError("the model ran away")

    with pytest.raises(RuntimeError, match="ran away"):
        write_gguf(path, {}, broken())
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("fields", "tensors", "kind", "message"),
    [
        ({}, [], "Q4_0", "Q4_0.*F32, F16, Q8_0"),
        ({"k": None}, [], "F32", "k = None"),
        ({"k": [1, "a"]}, [], "F32", "mixes"),
        ({}, [("a", torch.ones(1)), ("a", torch.ones(1))], "F32", "comes twice"),
        ({}, [("a", torch.ones(()))], "F32", "shape"),
        ({}, [("a", torch.ones(1, 1, 1, 1, 1))], "F32", "shape"),
        ({}, [("a.weight", torch.full((2, 2), 1e6))], "F16", "too large for F16"),
    ],
)
def test_what_gguf_cannot_hold_is_refused(fields: Any, tensors: Any, kind: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(VitralError, match=message):
        write_gguf(tmp_path / "x.gguf", fields, tensors, kind)
    assert list(tmp_path.iterdir()) == []


def test_smollm2_reads_equal_to_the_bit() -> None:
    path = artefact("smollm2")
    source, reader = GGUFFile(path), gguf.GGUFReader(path)
    assert source.names() == [t.name for t in reader.tensors]
    assert source.metadata["llama.attention.head_count"] == 9
    assert len(source.metadata["tokenizer.ggml.tokens"]) == 49152
    for found in reader.tensors[::17]:
        expected = gguf.quants.dequantize(found.data, found.tensor_type)
        assert np.array_equal(source.read(found.name).numpy(), expected)

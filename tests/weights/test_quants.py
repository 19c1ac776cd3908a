"""Every block format against llama.cpp's own Python reference, to the bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from vitral.errors import VitralError
from vitral.weights.quants import KINDS, dequantise, quantise_q8_0

PACKED = sorted(name for name, kind in KINDS.items() if kind.unpack is not None)


def _same_bits(left: np.ndarray, right: np.ndarray) -> bool:
    nan = np.isnan(left)
    return bool(np.array_equal(nan, np.isnan(right)) and np.array_equal(left[~nan].view("u4"), right[~nan].view("u4")))


@pytest.mark.parametrize("kind", PACKED)
def test_random_blocks_equal_the_reference(kind: str) -> None:
    how = KINDS[kind]
    # More weights than one round of unpacking holds, and not a multiple of it; random bytes meet every scale, NaN too.
    rows, blocks = 37, (1 << 17) // how.weights // 16 + 3
    raw = np.random.default_rng(7).integers(0, 256, (rows, blocks * how.bytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, gguf.GGMLQuantizationType[kind])
    found = dequantise(kind, raw, (rows, blocks * how.weights))
    assert found.dtype == np.float32
    assert found.shape == expected.shape
    assert _same_bits(found, expected)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_numbers_and_sizes_are_ggml_s(kind: str) -> None:
    assert KINDS[kind].id == gguf.GGMLQuantizationType[kind].value
    assert (KINDS[kind].weights, KINDS[kind].bytes) == gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]


@pytest.mark.parametrize(("kind", "dtype"), [("F32", "f4"), ("F16", "f2"), ("F64", "f8"), ("I8", "i1"), ("I32", "i4")])
def test_plain_numbers(kind: str, dtype: str) -> None:
    values = np.arange(-12, 12, dtype=dtype).reshape(4, 6)
    found = dequantise(kind, values.view(np.uint8), (4, 6))
    assert found.dtype == (np.dtype(dtype) if dtype.startswith("i") else np.float32)
    assert np.array_equal(found, values)


def test_q8_0_rounds_as_the_reference_does() -> None:
    rng = np.random.default_rng(3)
    values = (rng.standard_normal((64, 256)) * 10.0 ** rng.integers(-6, 4, (64, 1))).astype(np.float32)
    values[3] = 0.0
    values[4, ::2] = 63.5  # exact halves: away from zero, not to even
    values[4, 0] = 127.0
    expected = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    assert np.array_equal(quantise_q8_0(values), expected)


def test_q8_0_halves_round_away_from_zero() -> None:
    block = np.zeros((1, 32), dtype=np.float32)
    block[0, :4] = [127.0, 2.5, -2.5, 0.5]
    assert quantise_q8_0(block)[0, 2:6].view(np.int8).tolist() == [127, 3, -3, 1]


def test_the_wrong_number_of_bytes_is_refused() -> None:
    with pytest.raises(VitralError, match="do not make a tensor of shape"):
        dequantise("Q4_0", np.zeros(17, dtype=np.uint8), (1, 32))
    with pytest.raises(VitralError, match="do not make a tensor of shape"):  # 32 weights, but no whole block a row
        dequantise("Q4_0", np.zeros(18, dtype=np.uint8), (2, 16))


def test_an_unknown_kind_names_itself_and_the_known_ones() -> None:
    with pytest.raises(VitralError, match=r"IQ2_XS .*Supported: .*Q4_K"):
        dequantise("IQ2_XS", np.zeros(1, dtype=np.uint8), (1,))

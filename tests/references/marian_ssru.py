"""A Marian translation model with an SSRU decoder (Kim et al. 2019, "From Research to Production and Back") in NumPy.

Reads the binary file by itself and computes as the engine defines it (post-norm, eight heads, positions as halves of
d/2 - 1 steps, norms with 1e-9), in float64, one sentence at a time.
"""

from __future__ import annotations

import struct
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
HEADS, END = 8, 0


def tensors(path: Path) -> dict[str, Array]:
    """Every tensor of the file by its name in Marian, dequantised; matrices as they are applied, x · W."""
    data = path.read_bytes()
    count = struct.unpack_from("<Q", data, 8)[0]
    heads = [struct.unpack_from("<QQQQ", data, 16 + 32 * number) for number in range(count)]
    at, names, shapes, found = 16 + 32 * count, [], [], {}
    for length, *_ in heads:
        names.append(data[at : at + length].rstrip(b"\0").decode())
        at += length
    for _, _, rank, _ in heads:
        shapes.append(struct.unpack_from(f"<{rank}I", data, at))
        at += 4 * rank
    at += 8 + struct.unpack_from("<Q", data, at)[0]
    for name, shape, (_, kind, _, size) in zip(names, shapes, heads, strict=True):
        n = int(np.prod(shape))
        if kind == 0x404:
            found[name] = np.frombuffer(data, "<f4", n, at).reshape(shape).astype(np.float64)
        elif kind == 0x4101:
            integers = np.frombuffer(data, "i1", n, at).astype(np.float64)
            integers /= np.frombuffer(data, "<f4", 1, at + n)[0] if not name.endswith("QuantMultA") else 1
            found[name] = integers.reshape(shape) if name == "Wemb" else integers.reshape(shape[::-1]).T
        at += size
    return found


class Marian:
    """One direction of translation."""

    def __init__(self, path: Path) -> None:
        self.w = tensors(path)
        self.d = self.w["Wemb"].shape[1]

    def encode(self, ids: list[int]) -> Array:
        """The encoder's states [S, d]."""
        x = self.w["Wemb"][ids] * np.sqrt(self.d) + self.waves[: len(ids)]
        for layer in range(1, 7):
            x = self.norm(x + self.attend(x, x, f"encoder_l{layer}_self"), f"encoder_l{layer}_self_Wo")
            x = self.norm(x + self.ffn(x, f"encoder_l{layer}_ffn"), f"encoder_l{layer}_ffn_ffn")
        return x

    def translate(self, states: Array, most: int = 60) -> list[int]:
        """Greedy ids without the end; the decoder begins with a vector of zeros."""
        cells, ids, embedded = [np.zeros(self.d)] * 2, [], np.zeros(self.d)
        for place in range(most):
            x = (embedded + self.waves[place])[None]
            for layer in range(2):
                name = f"decoder_l{layer + 1}"
                forget = 1 / (1 + np.exp(-(x @ self.w[f"{name}_rnn_Wf"] + self.w[f"{name}_rnn_bf"])))
                cells[layer] = forget * cells[layer] + (1 - forget) * (x @ self.w[f"{name}_rnn_W"])
                x = self.norm(x + np.maximum(cells[layer], 0), f"{name}_rnn_ffn")
                x = self.norm(x + self.attend(x, states, f"{name}_context"), f"{name}_context_Wo")
                x = self.norm(x + self.ffn(x, f"{name}_ffn"), f"{name}_ffn_ffn")
            ids.append(int((x @ self.w["Wemb"].T + self.w["decoder_ff_logit_out_b"]).argmax()))
            if ids[-1] == END:
                return ids[:-1]
            embedded = self.w["Wemb"][ids[-1]] * np.sqrt(self.d)
        return ids

    def attend(self, x: Array, memory: Array, name: str) -> Array:
        def heads(y: Array, part: str) -> Array:
            return (y @ self.w[f"{name}_W{part}"] + self.w[f"{name}_b{part}"]).reshape(len(y), HEADS, -1).swapaxes(0, 1)

        q, k, v = heads(x, "q"), heads(memory, "k"), heads(memory, "v")
        scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (weights / weights.sum(-1, keepdims=True)) @ v
        return mixed.swapaxes(0, 1).reshape(len(x), -1) @ self.w[f"{name}_Wo"] + self.w[f"{name}_bo"]

    def ffn(self, x: Array, name: str) -> Array:
        inner = np.maximum(x @ self.w[f"{name}_W1"] + self.w[f"{name}_b1"], 0)
        return inner @ self.w[f"{name}_W2"] + self.w[f"{name}_b2"]

    def norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        return (
            centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-9) * self.w[f"{name}_ln_scale"]
            + self.w[f"{name}_ln_bias"]
        )

    @cached_property
    def waves(self) -> Array:
        half = self.d // 2
        angles = np.arange(1024)[:, None] * np.exp(-np.log(10000) * np.arange(half) / (half - 1))
        return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)

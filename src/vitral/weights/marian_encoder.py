"""The encoder of a Marian file, alone: the bodies of the small translation models that run in browsers.

Their encoder is the Transformer of 2017; their decoder is not: it reads its own words by a recurrent unit (SSRU, Kim et
al. 2019, "From Research to Production and Back", §2.2) that no part here computes. So the model cannot translate here,
and `vitral.load` says so; what its encoder makes of a sentence is exact.

Two constants of Marian's own engine differ from the published conversions that family `marian` describes: the slowest
wave has a period of exactly 10000 · 2π (d/2 - 1 steps from the fastest, not d/2), and norms add 1e-9 to the variance.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from vitral.errors import CheckpointError
from vitral.families import names_of, of_config
from vitral.nn import LayerNorm, Model, Sinusoid, Spec
from vitral.weights.load import fill
from vitral.weights.marian_bin import TABLE, MarianFile

EPSILON = 1e-9
CONTEXT = 1024
"""Positions are computed; the engine sets no limit, and nobody trained these models on longer texts."""
# Options that change the arithmetic, and the values under which it is the one described here.
_NEEDED = {
    "type": ("transformer",),
    "transformer-preprocess": ("",),
    "transformer-postprocess": ("dan", "an"),
    "transformer-postprocess-emb": ("d", ""),
    "transformer-postprocess-top": ("",),
    "transformer-train-position-embeddings": ("false",),
    "transformer-no-projection": ("false",),
    "transformer-tied-layers": ("[]", ""),
    "transformer-ffn-depth": ("2",),
    "transformer-ffn-activation": ("relu", "swish"),
    "tied-embeddings-all": ("true",),
}
_PARTS = {
    "self_Wq": "self_attn.q_proj.weight", "self_bq": "self_attn.q_proj.bias",
    "self_Wk": "self_attn.k_proj.weight", "self_bk": "self_attn.k_proj.bias",
    "self_Wv": "self_attn.v_proj.weight", "self_bv": "self_attn.v_proj.bias",
    "self_Wo": "self_attn.out_proj.weight", "self_bo": "self_attn.out_proj.bias",
    "self_Wo_ln_scale": "self_attn_layer_norm.weight", "self_Wo_ln_bias": "self_attn_layer_norm.bias",
    "ffn_W1": "fc1.weight", "ffn_b1": "fc1.bias", "ffn_W2": "fc2.weight", "ffn_b2": "fc2.bias",
    "ffn_ffn_ln_scale": "final_layer_norm.weight", "ffn_ffn_ln_bias": "final_layer_norm.bias",
}  # fmt: skip
_LAYER = re.compile(r"encoder_l([1-9][0-9]*)_(\w+)")
_OF_THE_ENGINE = "_QuantMultA"
"""Multipliers for the activations, which are not rounded here."""


class MarianEncoder:
    """The encoder's tensors as a `TensorSource` under Hugging Face's names, with the `config` of family `marian`.

    Raises:
        CheckpointError: a file that is damaged, or whose encoder computes something else.
    """

    metadata: Mapping[str, Any]

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.file = MarianFile(path)
        self.metadata = self.file.options
        self._names = {"model.encoder.embed_tokens.weight": TABLE}
        for name in self.file.items:
            if name.startswith("encoder_") and not name.endswith(_OF_THE_ENGINE):
                self._names[self._hf_name(name)] = name
        self.config = self._config()

    def names(self) -> list[str]:
        return list(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Vectors are rows in the file; matrices are turned to out × in, but for the table of tokens."""
        rows, columns = self._matrix(self._names[name])
        if name.endswith(("bias", "norm.weight")):
            return (columns,) if rows == 1 else (rows, columns)
        return (rows, columns) if self._names[name] == TABLE else (columns, rows)

    def dtype(self, name: str) -> str:
        """`F32`, whatever the file holds."""
        return "F32"

    def read(self, name: str) -> torch.Tensor:
        """The tensor, dequantised to float32."""
        values = torch.from_numpy(self.file.read(self._names[name]))
        if self._names[name] == TABLE:
            return values
        return values.reshape(-1) if len(self.shape(name)) == 1 else values.t().contiguous()

    def _hf_name(self, name: str) -> str:
        found = _LAYER.fullmatch(name)
        if found is None or found[2] not in _PARTS:
            self._fail(f"it holds {name!r:.80}, which an encoder of this kind has not")
        return f"model.encoder.layers.{int(found[1]) - 1}.{_PARTS[found[2]]}"

    def _matrix(self, name: str) -> tuple[int, int]:
        shape = self.file.shape(name)
        if len(shape) != 2:
            self._fail(f"{name!r:.80} has shape {list(shape)}")
        return shape[0], shape[1]

    def _config(self) -> dict[str, Any]:
        options = self.file.options
        for key, values in _NEEDED.items():
            if options.get(key, "") not in values:
                self._fail(f"{key} is {options.get(key)!r:.40}")
        try:
            layers, heads = int(options["enc-depth"]), int(options["transformer-heads"])
        except (KeyError, ValueError) as error:
            self._fail(f"enc-depth and transformer-heads are not both whole numbers ({error})")
        vocab, d = self._matrix(TABLE)
        sizes = {"layers": layers, "attention_heads": heads, "ffn_dim": self._matrix("encoder_l1_ffn_W1")[1]}
        return {
            "model_type": "marian",
            "architectures": ["MarianModel"],
            "is_encoder_decoder": True,
            "d_model": d,
            **{f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in sizes.items()},
            "activation_function": options["transformer-ffn-activation"],
            "scale_embedding": True,
            "max_position_embeddings": CONTEXT,
            "vocab_size": vocab,
            "decoder_vocab_size": vocab,
            "share_encoder_decoder_embeddings": False,
        }

    def _fail(self, what: str) -> NoReturn:
        raise CheckpointError(f"{self.path}: {what}", "Only encoders of the Transformer of 2017 are loaded")


def load_marian_encoder(path: str | Path, *, dtype: torch.dtype = torch.float32) -> Model:
    """The encoder as a headless model: `model.hidden(ids, model.step(ids))` is what the decoder would read, [B, T, d].

    Raises:
        CheckpointError: a file that is damaged, or whose encoder computes something else.
    """
    source = MarianEncoder(path)
    family = of_config(source.config)
    half = source.config["d_model"] // 2

    def as_the_engine(spec: Spec) -> Spec:
        if spec.part is LayerNorm:
            return spec.replace(eps=EPSILON)
        return spec.replace(base=10000 ** (half / (half - 1))) if spec.part is Sinusoid else spec

    encoder: Model = family.spec(source.config).args["encoder"].rewrite(as_the_engine).build(device="meta", dtype=dtype)
    whole = nn.ModuleDict({"encoder": encoder})
    names = names_of(family, source.config)
    fill(whole, source, names, folder=source.path.name, device="cpu", dtype=dtype)
    return encoder.eval()

"""Gemma (arXiv:2403.08295): rotary, GeGLU, norms whose weights are stored around zero, embeddings times sqrt(d).

The first published configs name the exact GELU; the models were trained with its tanh form, and that is meant.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.errors import CheckpointError
from vitral.families import llama1
from vitral.families.common.assemble import Card, decoder, pre_norm, sizes
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.nn import Attention, Gated, GELUTanh, RMSNorm, Spec

CARD = Card(
    title="Gemma",
    year=2024,
    org="Google",
    kind="decoder",
    source="arXiv:2403.08295 Tables 1 and 2",
    idea="an open model from the laboratory of closed ones: a very wide GeGLU, heads of 256, a vocabulary of 256,000",
    licence="Gemma Terms of Use",
    traps=(
        "the embedding is multiplied by sqrt(d) rounded to the dtype of the weights: 55.5 for 3072 in bfloat16",
        "norm weights are stored as w and applied as 1 + w, before the result is rounded down",
        "the first files say hidden_act gelu, and its tanh form is meant",
        "16 heads of 256 are 4096, wider than the 7B's 3072",
        "the paper's 32768 and 49152 count both halves of the GeGLU; its vocabulary of 256,128 is 256,000 in the files",
    ),
    recipe="3T (2B) and 6T (7B) tokens at context 8192; SFT, then RLHF held near the SFT model",
)
MODEL_TYPE = "gemma"
DEFAULTS = {
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "head_dim": 256,
    "tie_word_embeddings": True,
}
NAMES = llama1.NAMES


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a Gemma `config.json` describes."""
    c = Config(config, "gemma", DEFAULTS)
    d = c.size("hidden_size")
    shape = sizes(c, d)
    bias, act = c.flag("attention_bias"), activation(c)
    norm = Spec(RMSNorm, d=d, eps=c.number("rms_norm_eps"), offset=1.0)
    rotary, context = c.rotary(shape["head_dim"], c.size("max_position_embeddings", most=LONGEST))
    causal(c)

    def block() -> Spec:
        attention = Spec(Attention, **shape, position=rotary, bias=bias, out_bias=bias)
        return pre_norm(norm, attention, Spec(Gated, d_model=d, d_ff=c.size("intermediate_size"), act=act.replace()))

    blocks = [block() for _ in range(c.size("num_hidden_layers", most=DEEPEST))]
    return decoder(c, d=d, blocks=blocks, norm=norm, context=context, scale=d**0.5)


def activation(c: Config) -> Spec:
    """The activation of a file that may name it under two keys, the older of which says gelu and means its tanh form.

    Where both stand, releases of transformers differ on which of them counts.
    """
    new, old = c.get("hidden_activation", None), c.get("hidden_act", None)
    old = "gelu_pytorch_tanh" if old == "gelu" else old
    if None not in (new, old) and new != old:
        raise CheckpointError(f"config.json: hidden_activation {new!r:.40} and hidden_act {old!r:.40} differ")
    if new is None and old in (None, "gelu_pytorch_tanh"):
        return Spec(GELUTanh)
    return c.activation("hidden_act" if new is None else "hidden_activation")


def causal(c: Config) -> None:
    """Refuse the files of embedding models, whose tokens see what comes after them."""
    c.only("use_bidirectional_attention", None, False)


def preset(layers: int, d: int, n_heads: int, n_kv_heads: int, d_ff: int, **other: Any) -> dict[str, Any]:
    """A config.json of this family by its published numbers."""
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["GemmaForCausalLM"],
        "num_hidden_layers": layers,
        "hidden_size": d,
        "num_attention_heads": n_heads,
        "num_key_value_heads": n_kv_heads,
        "head_dim": 256,
        "intermediate_size": d_ff,
        "hidden_act": "gelu_pytorch_tanh",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 8192,
        "vocab_size": 256000,
        "tie_word_embeddings": True,
        **other,
    }


PRESETS = {
    "2b": preset(18, 2048, 8, 1, 16384),
    "7b": preset(28, 3072, 16, 16, 24576),
}

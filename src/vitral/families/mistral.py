"""Mistral 7B (arXiv:2310.06825): the Llama block in which every layer sees a sliding window.

The window is of version 0.1 alone: later files say null, and then every layer sees all that came before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.families import llama1
from vitral.families.common.assemble import Card, decoder, pre_norm, sizes
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.nn import Attention, Causal, Gated, Kind, RMSNorm, Spec, Window

CARD = Card(
    title="Mistral 7B",
    year=2023,
    org="Mistral AI",
    kind="decoder",
    source="arXiv:2310.06825",
    idea="a small model above larger ones; grouped queries, and a window of 4096 tokens whose cache is a ring",
    licence="Apache-2.0",
    traps=(
        "only v0.1 has the window, and the token that looks is one of its 4096",
        "eps is 1e-5 in the files, 1e-6 by default in transformers",
    ),
    recipe="not published",
)
MODEL_TYPE = "mistral"
DEFAULTS = {"max_position_embeddings": 131072, "rms_norm_eps": 1e-6, "num_key_value_heads": 8}
NAMES = llama1.NAMES


def kind(c: Config) -> Kind:
    """What every layer sees: `sliding_window` tokens, the token itself among them; all where it is null.

    A file without the key is one that was written while 4096 was what its absence meant.
    """
    if "sliding_window" in c.data and c.get("sliding_window", None) is None:
        return Causal()
    return Window(c.size("sliding_window", 4096, most=LONGEST))


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a Mistral `config.json` describes."""
    c = Config(config, "mistral", DEFAULTS)
    d = c.size("hidden_size")
    shape = sizes(c, d)
    context = c.size("max_position_embeddings", most=LONGEST)
    eps = c.number("rms_norm_eps")
    rotary, context = c.rotary(shape["head_dim"], context)
    norm, sees = Spec(RMSNorm, d=d, eps=eps), kind(c)

    def block() -> Spec:
        attention = Spec(Attention, **shape, kind=sees, position=rotary)
        ffn = Spec(Gated, d_model=d, d_ff=c.size("intermediate_size"), act=c.activation("hidden_act"))
        return pre_norm(norm, attention, ffn)

    blocks = [block() for _ in range(c.size("num_hidden_layers", most=DEEPEST))]
    return decoder(c, d=d, blocks=blocks, norm=norm, context=context)


def preset(window: int | None, theta: float, context: int, vocab: int = 32000) -> dict[str, Any]:
    """A config.json of this family by its published numbers."""
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["MistralForCausalLM"],
        "num_hidden_layers": 32,
        "hidden_size": 4096,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": theta,
        "sliding_window": window,
        "max_position_embeddings": context,
        "vocab_size": vocab,
        "tie_word_embeddings": False,
    }


PRESETS = {
    "7b-v0.1": preset(4096, 10000.0, 8192),
    "7b-v0.2": preset(None, 1000000.0, 32768),
    "7b-v0.3": preset(None, 1000000.0, 32768, vocab=32768),
}

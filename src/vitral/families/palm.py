"""PaLM (Chowdhery et al. 2022, arXiv:2204.02311): attention and feed-forward beside one another, under one norm.

x ──┬─ LayerNorm ─┬─ attention (rotary, one key-value head) ─┬─(+)──▶
    │             └─ SwiGLU (three matrices, 4 × d) ─────────┘  │
    └───────────────────────────────────────────────────────────┘

No biases anywhere, not in the norms either; logits are divided by sqrt(d), and the one table for input and output,
which no norm follows, begins as Normal(0, 1) (§5). Not printed, and taken here: rotary base 10000 in the half-split
form, eps 1e-6. No file was published: files use our names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.families.common.assemble import Card, decoder, sizes
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.families.common.rules import OWN
from vitral.nn import Attention, Block, Gated, LayerNorm, Parallel, Spec, Sublayer, Table

CARD = Card(
    title="PaLM",
    year=2022,
    org="Google",
    kind="decoder",
    source="arXiv:2204.02311 Table 1, §2, §5",
    idea="540B dense parameters over 6144 chips; sublayers side by side train 15% faster; reasoning in steps appears",
    licence="closed",
    traps=(
        "one norm serves both branches",
        "48 heads of 256 are narrower than the 540B model's width of 18432",
        "the gated layer is 4 × d wide with three matrices, not 8/3 × d",
        "logits are divided by sqrt(d)",
    ),
    unpublished=("weights", "base of the rotary positions", "eps"),
    stand_in="gemma/7b",
    recipe="780B tokens once, Adafactor, 1e-2 for 10k steps then 1/sqrt(k), z-loss 1e-4, batches of 512 to 2048 texts",
)
MODEL_TYPE = "palm"
DEFAULTS = {
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-6,
    "hidden_act": "silu",
    "num_key_value_heads": 1,
    "tie_word_embeddings": True,
}
NAMES = OWN


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a PaLM config describes."""
    c = Config(config, "palm", DEFAULTS)
    d = c.size("hidden_size")
    shape = sizes(c, d)
    rotary, context = c.rotary(shape["head_dim"], c.size("max_position_embeddings", most=LONGEST))
    norm = Spec(LayerNorm, d=d, eps=c.number("layer_norm_eps"), bias=False)

    def block() -> Spec:
        attention = Spec(Attention, **shape, position=rotary)
        ffn = Spec(Gated, d_model=d, d_ff=c.size("intermediate_size"), act=c.activation("hidden_act"))
        return Spec(Block, both=Spec(Sublayer, mixer=Spec(Parallel, attn=attention, ffn=ffn), pre=norm.replace()))

    blocks = [block() for _ in range(c.size("num_hidden_layers", most=DEEPEST))]
    model = decoder(c, d=d, blocks=blocks, norm=norm, context=context, logit_scale=d**-0.5)
    return model.rewrite(lambda part: part.replace(std=1.0) if part.part is Table else part)


def preset(layers: int, d: int, n_heads: int) -> dict[str, Any]:
    """A config of this family by its published numbers."""
    return {
        "model_type": MODEL_TYPE,
        "num_hidden_layers": layers,
        "hidden_size": d,
        "num_attention_heads": n_heads,
        "num_key_value_heads": 1,
        "head_dim": 256,
        "intermediate_size": 4 * d,
        "max_position_embeddings": 2048,
        "vocab_size": 256000,
        "tie_word_embeddings": True,
    }


PRESETS = {"8b": preset(32, 4096, 16), "62b": preset(64, 8192, 32), "540b": preset(118, 18432, 48)}

"""GPT-3 (Brown et al. 2020, arXiv:2005.14165): the GPT-2 block over 2048 tokens, dense and locally banded in turn.

The widths of the bands were not published: a config gives `attention_pattern`, repeated over the layers, with `band`
and `stride`; without them every layer is dense. Files use GPT-2's names.

Two rows of Table 2.1 contradict themselves. The presets hold what closes with the printed size; `PRINTED` holds those
rows as they stand, which also builds, since a head's size is free of d / heads here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.errors import CheckpointError
from vitral.families import gpt2
from vitral.families.common.assemble import Card, decoder, pre_norm, share
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.nn import Attention, Banded, Causal, Kind, LayerNorm, Learned, Plain, Spec, Strided

CARD = Card(
    title="GPT-3",
    year=2020,
    org="OpenAI",
    kind="decoder",
    source="arXiv:2005.14165 Table 2.1, §2.1",
    idea="a hundred times larger, it does a task from a few examples in its prompt, without a gradient step",
    licence="closed",
    traps=(
        "Table 2.1 gives XL 24 heads of 128 at width 2048 (16 make 1.3B) and 13B a width of 5140 for 40 heads of 128",
        "the width of the bands was not published; dense is the default here",
    ),
    unpublished=("weights", "band width and pattern of the sparse layers"),
    stand_in="gpt2/xl",
    recipe="300B tokens, Adam (0.9, 0.95), clip 1, weight decay 0.1, 375M tokens of warm-up, cosine to 10%",
)
MODEL_TYPE = "gpt3"
DEFAULTS = {"n_positions": 2048, "layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"}
NAMES = gpt2.NAMES
PATTERNS = ("dense", "banded", "strided")


def kinds(c: Config, layers: int) -> list[Kind]:
    """The mask kind of each layer (Child et al., arXiv:1904.10509 §4.2)."""
    pattern = c.get("attention_pattern", ["dense"])
    if not isinstance(pattern, list) or not pattern or any(name not in PATTERNS for name in pattern):
        raise CheckpointError(
            f"config.json: attention_pattern is {pattern!r:.60}", f"It must be a list of {', '.join(PATTERNS)}"
        )
    made: dict[str, Kind] = {"dense": Causal()}
    if "banded" in pattern:
        made["banded"] = Banded(c.size("band", most=LONGEST))
    if "strided" in pattern:
        made["strided"] = Strided(c.size("stride", most=LONGEST))
    return [made[pattern[depth % len(pattern)]] for depth in range(layers)]


def build(c: Config) -> Spec:
    """The model that the keys of this family describe."""
    d, n_heads = c.size("n_embd"), c.size("n_head")
    head_dim = share("n_embd", d, "n_head", n_heads, "Give head_dim") if c.get("head_dim", None) is None else None
    head_dim = head_dim or c.size("head_dim")
    context = c.size("n_positions", most=LONGEST)
    norm = Spec(LayerNorm, d=d, eps=c.number("layer_norm_epsilon"))
    shape = {"d_model": d, "n_heads": n_heads, "n_kv_heads": n_heads, "head_dim": head_dim}

    def block(kind: Kind) -> Spec:
        attention = Spec(Attention, **shape, kind=kind, bias=True, out_bias=True)
        ffn = Spec(Plain, d_model=d, d_ff=c.size("n_inner", 4 * d), act=c.activation("activation_function"))
        return pre_norm(norm, attention, ffn)

    blocks = [block(kind) for kind in kinds(c, c.size("n_layer", most=DEEPEST))]
    return decoder(c, d=d, blocks=blocks, norm=norm, context=context, positions=Spec(Learned, n=context, d=d))


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a GPT-3 config describes."""
    return build(Config(config, "gpt3", DEFAULTS))


def preset(layers: int, d: int, n_heads: int, **other: Any) -> dict[str, Any]:
    """A config of this family by its published numbers."""
    sizes = {"n_layer": layers, "n_embd": d, "n_head": n_heads, "n_positions": 2048, "vocab_size": 50257}
    return {"model_type": MODEL_TYPE, **sizes, "tie_word_embeddings": True, **other}


PRESETS = {
    "small": preset(12, 768, 12),
    "medium": preset(24, 1024, 16),
    "large": preset(24, 1536, 16),
    "xl": preset(24, 2048, 16),
    "2.7b": preset(32, 2560, 32),
    "6.7b": preset(32, 4096, 32),
    "13b": preset(40, 5120, 40),
    "175b": preset(96, 12288, 96),
}
PRINTED = {
    "xl": preset(24, 2048, 24, head_dim=128),
    "13b": preset(40, 5140, 40, head_dim=128),
}
"""The rows of Table 2.1 that do not close with their printed size (1.517B and 12.94B for 1.3B and 13.0B)."""

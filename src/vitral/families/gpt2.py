"""GPT-2 (Radford et al. 2019): pre-LayerNorm, learned positions, GELU by tanh, biases everywhere, tied head.

Published matrices are stored in × out, and q, k, v in one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.families.common.assemble import Card, decoder, pre_norm, share
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.families.common.rules import Names, Split, Transposed
from vitral.nn import Attention, LayerNorm, Learned, Plain, Spec

CARD = Card(
    title="GPT-2",
    year=2019,
    org="OpenAI",
    kind="decoder",
    source="Radford et al. 2019, Language Models are Unsupervised Multitask Learners",
    idea="a larger decoder with its norms moved before the sublayers does tasks it was never tuned for",
    licence="MIT",
    traps=(
        "the paper's 117M, 345M, 762M and 1542M are wrong by its authors' own word: 124M, 355M, 774M, 1558M",
        "matrices are stored in × out; c_attn is q, k, v in that order",
        "files of the hub lack the prefix transformer. and carry the causal mask as buffers",
        "the xl has 25 heads, which no power of two divides",
    ),
    recipe="WebText (40 GB), batches of 512 × 1024 tokens; learning rates were not published",
)
MODEL_TYPE = "gpt2"
DEFAULTS = {"n_positions": 1024, "layer_norm_epsilon": 1e-5, "tie_word_embeddings": True}


def _qkv(ending: str) -> Split:
    return Split(tuple(f"stack.blocks.{{}}.attn.mixer.{name}.{ending}" for name in "qkv"))


NAMES = Names(
    prefix="transformer.",
    bare=("lm_head.{}",),
    rules={
        "wte.weight": "embed.tokens.weight",
        "wpe.weight": "embed.positions.table.weight",
        "h.{}.ln_1.{}": "stack.blocks.{}.attn.pre.{}",
        "h.{}.attn.c_attn.weight": Transposed(_qkv("weight")),
        "h.{}.attn.c_attn.bias": _qkv("bias"),
        "h.{}.attn.c_proj.weight": Transposed("stack.blocks.{}.attn.mixer.o.weight"),
        "h.{}.attn.c_proj.bias": "stack.blocks.{}.attn.mixer.o.bias",
        "h.{}.ln_2.{}": "stack.blocks.{}.ffn.pre.{}",
        "h.{}.mlp.c_fc.weight": Transposed("stack.blocks.{}.ffn.mixer.up.weight"),
        "h.{}.mlp.c_fc.bias": "stack.blocks.{}.ffn.mixer.up.bias",
        "h.{}.mlp.c_proj.weight": Transposed("stack.blocks.{}.ffn.mixer.down.weight"),
        "h.{}.mlp.c_proj.bias": "stack.blocks.{}.ffn.mixer.down.bias",
        "ln_f.{}": "stack.norm.{}",
        "lm_head.weight": "head.proj.weight",
    },
    ignore=("h.{}.attn.bias", "h.{}.attn.masked_bias"),
    tied={"lm_head.weight": "wte.weight"},
)


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a GPT-2 `config.json` describes."""
    c = Config(config, "gpt2", DEFAULTS)
    d, n_heads = c.size("n_embd"), c.size("n_head")
    head_dim = share("n_embd", d, "n_head", n_heads)
    context = c.size("n_positions", most=LONGEST)
    eps = c.number("layer_norm_epsilon")
    scale = head_dim**-0.5 if c.flag("scale_attn_weights", True) else 1.0
    by_depth = c.flag("scale_attn_by_inverse_layer_idx")
    norm = Spec(LayerNorm, d=d, eps=eps)

    def block(depth: int) -> Spec:
        attention = Spec(
            Attention,
            d_model=d,
            n_heads=n_heads,
            n_kv_heads=n_heads,
            head_dim=head_dim,
            bias=True,
            out_bias=True,
            scale=scale / (depth + 1) if by_depth else scale,
        )
        ffn = Spec(Plain, d_model=d, d_ff=c.size("n_inner", 4 * d), act=c.activation("activation_function"))
        return pre_norm(norm, attention, ffn)

    blocks = [block(depth) for depth in range(c.size("n_layer", most=DEEPEST))]
    positions = Spec(Learned, n=context, d=d)
    return decoder(c, d=d, blocks=blocks, norm=norm, context=context, positions=positions)


def preset(layers: int, d: int, n_heads: int) -> dict[str, Any]:
    """A config.json of this family by its published numbers."""
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["GPT2LMHeadModel"],
        "n_layer": layers,
        "n_embd": d,
        "n_head": n_heads,
        "n_positions": 1024,
        "vocab_size": 50257,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    }


PRESETS = {
    "small": preset(12, 768, 12),
    "medium": preset(24, 1024, 16),
    "large": preset(36, 1280, 20),
    "xl": preset(48, 1600, 25),
}

"""GPT (Radford et al. 2018): a decoder alone, norms after the residual additions, learned positions, tied head.

There is no norm after the last block. `afn: gelu` has always meant the tanh form here. Published matrices are stored
in × out, q, k, v in one tensor, and the published file has no `transformer.` before its names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.families import gpt2
from vitral.families.common.assemble import Card, decoder, post_norm, share
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.families.common.rules import Names
from vitral.nn import Attention, GELUTanh, LayerNorm, Learned, Plain, Spec

CARD = Card(
    title="GPT",
    year=2018,
    org="OpenAI",
    kind="decoder",
    source="Radford et al. 2018, Improving Language Understanding by Generative Pre-Training, §3.1, §4.1",
    idea="pre-train a decoder on plain text, then tune it for each task: one model instead of one a task",
    licence="MIT",
    traps=(
        "norms come after the additions, and none after the last block",
        "activation 'gelu' means the tanh form",
        "the published file has no prefix before its names and stores matrices in × out",
    ),
    recipe="BooksCorpus, 100 epochs, batch 64 × 512 tokens, Adam to 2.5e-4 with 2000 warm-up steps, cosine to 0",
)
MODEL_TYPE = "openai-gpt"
DEFAULTS = {"n_positions": 512, "layer_norm_epsilon": 1e-5, "afn": "gelu", "tie_word_embeddings": True}
NAMES = Names(
    prefix="transformer.",
    bare=("lm_head.{}",),
    rules={
        "tokens_embed.weight": "embed.tokens.weight",
        "positions_embed.weight": "embed.positions.table.weight",
        **{name: rule for name, rule in gpt2.NAMES.rules.items() if name.startswith(("h.{}.attn.", "h.{}.mlp."))},
        "h.{}.ln_1.{}": "stack.blocks.{}.attn.after.{}",
        "h.{}.ln_2.{}": "stack.blocks.{}.ffn.after.{}",
        "lm_head.weight": "head.proj.weight",
    },
    ignore=("h.{}.attn.bias", "position_ids"),
    tied={"lm_head.weight": "tokens_embed.weight"},
)


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a GPT `config.json` describes."""
    c = Config(config, "gpt1", DEFAULTS)
    d, n_heads = c.size("n_embd"), c.size("n_head")
    head_dim = share("n_embd", d, "n_head", n_heads)
    context = c.size("n_positions", most=LONGEST)
    act = Spec(GELUTanh) if c.get("afn") == "gelu" else c.activation("afn")
    norm = Spec(LayerNorm, d=d, eps=c.number("layer_norm_epsilon"))

    def block() -> Spec:
        shape = {"d_model": d, "n_heads": n_heads, "n_kv_heads": n_heads, "head_dim": head_dim}
        attention = Spec(Attention, **shape, bias=True, out_bias=True)
        return post_norm(norm, attention, Spec(Plain, d_model=d, d_ff=4 * d, act=act))

    blocks = [block() for _ in range(c.size("n_layer", most=DEEPEST))]
    return decoder(c, d=d, blocks=blocks, norm=None, context=context, positions=Spec(Learned, n=context, d=d))


PRESETS = {
    "117m": {
        "model_type": MODEL_TYPE,
        "architectures": ["OpenAIGPTLMHeadModel"],
        "n_layer": 12,
        "n_embd": 768,
        "n_head": 12,
        "n_positions": 512,
        "vocab_size": 40478,
        "afn": "gelu",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": True,
    }
}

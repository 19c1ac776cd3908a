"""BERT (Devlin et al. 2018, arXiv:1810.04805): a bidirectional encoder, LayerNorm after each residual addition.

Which heads a file holds (pooler, masked token, next sentence) is read from its tensors: configs do not say.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vitral.families.common.assemble import Card, encoder, post_norm, share
from vitral.families.common.config import DEEPEST, LONGEST, Config, architecture
from vitral.families.common.rules import Names
from vitral.nn import Attention, Full, LayerNorm, Plain, Spec

CARD = Card(
    title="BERT",
    year=2018,
    org="Google",
    kind="encoder",
    source="arXiv:1810.04805",
    idea="learn from both sides by guessing masked tokens; fine-tune the same body for every task",
    licence="Apache-2.0",
    traps=("eps is 1e-12, not 1e-5", "gelu is the exact one", "the loss is over the chosen 15% of tokens alone"),
    recipe="80% of those masked, 10% random, 10% kept; next sentence at even odds; 1M steps of 256 texts, Adam 1e-4",
)
MODEL_TYPE = "bert"
DEFAULTS = {
    "max_position_embeddings": 512,
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
    "vocab_size": 30522,
    "tie_word_embeddings": True,
}
NAMES = Names(
    prefix="bert.",
    bare=("cls.predictions.{}", "cls.predictions.{}.{}", "cls.predictions.{}.{}.{}", "cls.seq_relationship.{}"),
    rules={
        "embeddings.word_embeddings.weight": "embed.tokens.weight",
        "embeddings.position_embeddings.weight": "embed.positions.table.weight",
        "embeddings.token_type_embeddings.weight": "embed.segments.weight",
        "embeddings.LayerNorm.{}": "embed.norm.{}",
        "encoder.layer.{}.attention.self.query.{}": "stack.blocks.{}.attn.mixer.q.{}",
        "encoder.layer.{}.attention.self.key.{}": "stack.blocks.{}.attn.mixer.k.{}",
        "encoder.layer.{}.attention.self.value.{}": "stack.blocks.{}.attn.mixer.v.{}",
        "encoder.layer.{}.attention.output.dense.{}": "stack.blocks.{}.attn.mixer.o.{}",
        "encoder.layer.{}.attention.output.LayerNorm.{}": "stack.blocks.{}.attn.after.{}",
        "encoder.layer.{}.intermediate.dense.{}": "stack.blocks.{}.ffn.mixer.up.{}",
        "encoder.layer.{}.output.dense.{}": "stack.blocks.{}.ffn.mixer.down.{}",
        "encoder.layer.{}.output.LayerNorm.{}": "stack.blocks.{}.ffn.after.{}",
        "pooler.dense.{}": "pooler.dense.{}",
        "cls.predictions.transform.dense.{}": "head.transform.dense.{}",
        "cls.predictions.transform.LayerNorm.{}": "head.transform.norm.{}",
        "cls.predictions.bias": "head.bias",
        "cls.predictions.decoder.{}": "head.proj.{}",
        "cls.seq_relationship.{}": "classifier.{}",
    },
    ignore=("embeddings.position_ids",),
    old=(("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")),
    tied={
        "cls.predictions.decoder.weight": "embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
        "cls.predictions.bias": "cls.predictions.decoder.bias",  # which of the two is the head's own depends on the tie
    },
)
_HEADS = {
    "BertModel": ("pooler",),
    "BertForMaskedLM": ("masked",),
    "BertForPreTraining": ("pooler", "masked", "next"),
    "BertForNextSentencePrediction": ("pooler", "next"),
}
_SIGNS = {
    "pooler": "pooler.dense.weight",
    "masked": "cls.predictions.transform.dense.weight",
    "next": "cls.seq_relationship.weight",
}


def complete(config: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The config with the heads that a file with these tensor names really holds."""
    names = list(names)
    held = [head for head, sign in _SIGNS.items() if any(name.endswith(sign) for name in names)]
    return {**config, "_vitral_heads": held}


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a BERT `config.json` describes."""
    c = Config(config, "bert", DEFAULTS)
    d, n_heads = c.size("hidden_size"), c.size("num_attention_heads")
    head_dim = share("hidden_size", d, "num_attention_heads", n_heads)
    context = c.size("max_position_embeddings", most=LONGEST)
    c.only("position_embedding_type", "absolute")
    norm, act = Spec(LayerNorm, d=d, eps=c.number("layer_norm_eps")), c.activation("hidden_act")
    sizes = {"d_model": d, "n_heads": n_heads, "n_kv_heads": n_heads, "head_dim": head_dim}

    def block() -> Spec:
        attention = Spec(Attention, **sizes, kind=Full(), bias=True, out_bias=True)
        return post_norm(norm, attention, Spec(Plain, d_model=d, d_ff=c.size("intermediate_size"), act=act.replace()))

    blocks = [block() for _ in range(c.size("num_hidden_layers", most=DEEPEST))]
    heads = config.get("_vitral_heads", _HEADS.get(architecture(config) or "BertModel", ()))
    return encoder(c, d=d, blocks=blocks, norm=norm, act=act, context=context, heads=heads)


def preset(layers: int, d: int, n_heads: int) -> dict[str, Any]:
    """A config.json of this family by its published numbers."""
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["BertModel"],
        "num_hidden_layers": layers,
        "hidden_size": d,
        "num_attention_heads": n_heads,
        "intermediate_size": 4 * d,
        "hidden_act": "gelu",
        **DEFAULTS,
    }


PRESETS = {"base": preset(12, 768, 12), "large": preset(24, 1024, 16)}

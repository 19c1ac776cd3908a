"""Qwen (Bai et al. 2023, arXiv:2309.16609): the Llama block with biases on q, k and v, in the names of its own code.

`intermediate_size` is both halves of the gated layer together, and its gate is `w2`: c_proj(w1(x) · silu(w2(x))).
Beyond `seq_length`, the training context, frequencies grow in steps and queries sharpen with log n. The published code
keeps, while it decodes, the frequencies of the prompt; here they follow the length, so the two differ only for a text
that crosses a doubling of `seq_length` while it is being written. (The windows of the paper's long-text runs are not in
that code, nor here.) Published files want code of their own; none is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.errors import CheckpointError
from vitral.families.common.assemble import Card, decoder, pre_norm, share
from vitral.families.common.config import DEEPEST, LONGEST, Config
from vitral.families.common.rules import Names, Split
from vitral.nn import Attention, Gated, LogN, RMSNorm, Rotary, SiLU, Spec, SteppedNTK

CARD = Card(
    title="Qwen",
    year=2023,
    org="Alibaba",
    kind="decoder",
    source="arXiv:2309.16609 Table 1, §2.3",
    idea="a 152k vocabulary for many languages; longer texts than it was trained on without training again",
    licence="Tongyi Qianwen",
    licences={"1.8b": "Tongyi Qianwen Research"},
    traps=(
        "intermediate_size counts both halves of the gated layer",
        "the gate is w2, not w1",
        "q, k and v are one tensor, with biases although the config says no_bias",
    ),
    recipe="2.2T to 3T tokens at context 2048, AdamW (0.9, 0.95), cosine to 10%, bfloat16",
)
MODEL_TYPE = "qwen"
DEFAULTS = {"layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000, "max_position_embeddings": 8192}
NAMES = Names(
    prefix="transformer.",
    bare=("lm_head.{}",),
    rules={
        "wte.weight": "embed.tokens.weight",
        "h.{}.ln_1.weight": "stack.blocks.{}.attn.pre.weight",
        "h.{}.attn.c_attn.{}": Split(tuple(f"stack.blocks.{{}}.attn.mixer.{name}.{{}}" for name in "qkv")),
        "h.{}.attn.c_proj.{}": "stack.blocks.{}.attn.mixer.o.{}",
        "h.{}.ln_2.weight": "stack.blocks.{}.ffn.pre.weight",
        "h.{}.mlp.w1.{}": "stack.blocks.{}.ffn.mixer.up.{}",
        "h.{}.mlp.w2.{}": "stack.blocks.{}.ffn.mixer.gate.{}",
        "h.{}.mlp.c_proj.{}": "stack.blocks.{}.ffn.mixer.down.{}",
        "ln_f.weight": "stack.norm.weight",
        "lm_head.weight": "head.proj.weight",
    },
    ignore=("rotary_emb.inv_freq", "h.{}.attn.rotary_emb.inv_freq", "h.{}.attn.masked_bias"),
)
CODE = {"AutoConfig": "configuration_qwen.QWenConfig", "AutoModelForCausalLM": "modeling_qwen.QWenLMHeadModel"}
"""The code that published folders bring along, and that is never run."""
# Keys that choose how the published code computes, and what it does not with a model that is only read.
ITS_CODE = """onnx_safe use_flash_attn bf16 fp16 fp32 softmax_in_fp32 use_cache_kernel tokenizer_type
    attn_dropout_prob emb_dropout_prob""".split()  # noqa: SIM905


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a Qwen `config.json` describes."""
    c = Config(config, "qwen1", DEFAULTS)
    d, n_heads = c.size("hidden_size"), c.size("num_attention_heads")
    head_dim = c.size("kv_channels", share("hidden_size", d, "num_attention_heads", n_heads, "Give kv_channels"))
    d_ff = share("intermediate_size", c.size("intermediate_size"), "its halves", 2)
    context = c.size("max_position_embeddings", most=LONGEST)
    trained, theta = c.size("seq_length", context, least=2, most=LONGEST), c.number("rotary_emb_base")
    if head_dim % 2 or head_dim < 4 or theta <= 1:
        raise CheckpointError(f"config.json: rotary over {head_dim} numbers a head with base {theta:g} is not possible")
    bias = not c.flag("no_bias", True)
    for key, value in {"rotary_pct": 1.0, "scale_attn_weights": True, "use_cache_quantization": False}.items():
        c.only(key, value)
    c.code(CODE)
    for key in ITS_CODE:
        c.get(key, None)
    scaling = SteppedNTK(original=trained) if c.flag("use_dynamic_ntk", True) else None
    position = Spec(Rotary, dim=head_dim, theta=theta, scaling=scaling)
    if c.flag("use_logn_attn", True):
        position = Spec(LogN, inner=position, original=trained)
    norm = Spec(RMSNorm, d=d, eps=c.number("layer_norm_epsilon"))

    def block() -> Spec:
        shape = {"d_model": d, "n_heads": n_heads, "n_kv_heads": n_heads, "head_dim": head_dim}
        attention = Spec(Attention, **shape, position=position, bias=True, out_bias=bias)
        return pre_norm(norm, attention, Spec(Gated, d_model=d, d_ff=d_ff, act=Spec(SiLU), bias=bias))

    blocks = [block() for _ in range(c.size("num_hidden_layers", most=DEEPEST))]
    return decoder(c, d=d, blocks=blocks, norm=norm, context=context)


def preset(layers: int, d: int, n_heads: int, d_ff: int, **other: Any) -> dict[str, Any]:
    """A config.json of this family by its published numbers; d_ff is one half of what the file says."""
    sizes = {"num_hidden_layers": layers, "hidden_size": d, "num_attention_heads": n_heads, "kv_channels": 128}
    sizes |= {"intermediate_size": 2 * d_ff, "max_position_embeddings": 8192, "vocab_size": 151936}
    named = {"model_type": MODEL_TYPE, "architectures": ["QWenLMHeadModel"], "tie_word_embeddings": False}
    return named | sizes | {"seq_length": 8192, "use_dynamic_ntk": True, "use_logn_attn": True, **other}


_LONG = {"seq_length": 32768, "max_position_embeddings": 32768, "rotary_emb_base": 1000000}
PRESETS = {
    "1.8b": preset(24, 2048, 16, 5504),
    "7b": preset(32, 4096, 32, 11008),
    "14b": preset(40, 5120, 40, 13696, vocab_size=152064, seq_length=2048),
    "72b": preset(80, 8192, 64, 24576, vocab_size=152064, use_dynamic_ntk=False, use_logn_attn=False, **_LONG),
}

"""What no parity row of order 1 shows of Gemma: caps that saturate, every kernel alike, the scale of the embedding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

from tests.families.rows import BY_NAME
from vitral.errors import CheckpointError
from vitral.families import gemma, gemma2
from vitral.nn import Eager, Fused

LOUD = 50.0


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model whose queries, and whose logits, are fifty times those of order 1: caps of 50 and 30 saturate."""
    ref = BY_NAME["gemma2-plain"].real(tmp_path_factory.mktemp("loud"))
    with torch.no_grad():
        for name, parameter in ref.theirs.named_parameters():
            if name.endswith("model.norm.weight"):
                parameter.copy_((1 + parameter) * LOUD - 1)
            if name.endswith("layers.0.self_attn.q_proj.weight"):
                parameter.mul_(LOUD)
    ref.theirs.save_pretrained(ref.folder)
    ref.full = ref.ask(ref.ids)
    return ref


@pytest.mark.parametrize("kernel", ["fused", "fused at any length", "eager"])
def test_saturated_caps(loud: Any, kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = loud.load()
    monkeypatch.setattr(Fused, "few", 0 if kernel == "fused at any length" else 256)
    for module in [module for module in ours.modules() if kernel == "eager" and hasattr(module, "kernel")]:
        module.kernel = module.kernel.eager()
        assert type(module.kernel) is Eager
    seen = []
    ours.stack.blocks[0].attn.mixer.q.register_forward_hook(lambda _, args, out: seen.append(out.detach()))
    with torch.no_grad():
        mine = ours(loud.ids)
    theirs = loud.full["logits"]
    assert (theirs.abs() > 29).float().mean() > 0.2, "the cap of 30 is hardly felt"
    assert seen[0].std() > 25, "the cap of 50 is hardly felt"
    assert (mine - theirs).abs().max() <= 1e-5 * 30


def test_the_scale_of_the_embedding_is_rounded_to_the_weights() -> None:
    """sqrt(3072) = 55.4256… is 55.5 in bfloat16, bit for bit as the published implementation has it."""
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4}
    config = hf.GemmaConfig(vocab_size=20, hidden_size=3072, intermediate_size=4, **sizes)
    ids = torch.arange(20)[None]
    for dtype, scale in ((torch.bfloat16, 55.5), (torch.float32, 3072**0.5)):
        theirs, ours = hf.GemmaForCausalLM(config).to(dtype), gemma.spec(config.to_dict()).build(dtype=dtype)
        ours.embed.tokens.weight.data = theirs.model.embed_tokens.weight.data
        embedded = ours.embed(ids, ours.step(ids))
        assert torch.equal(embedded, theirs.model.embed_tokens(ids))
        assert torch.equal(embedded[0], ours.embed.tokens.weight * scale)


def test_published_numbers() -> None:
    """Scales and windows of the 27B, whose queries are not scaled by their head size."""
    blocks = gemma2.spec(gemma2.PRESETS["27b"]).args["stack"].args["blocks"]
    attention = [block.args["attn"].args["mixer"].args for block in blocks]
    assert attention[0]["scale"] == pytest.approx(1 / 12) and attention[0]["head_dim"] == 128
    assert [each["kind"].name for each in attention[:4]] == ["window-4096", "causal"] * 2
    assert gemma2.spec(gemma2.PRESETS["9b"]).args["stack"].args["blocks"][0].args["attn"].args["mixer"].args[
        "scale"
    ] == pytest.approx(1 / 16)


@pytest.mark.parametrize(
    ("family", "changes", "said"),
    [
        (gemma, {"hidden_act": "silu", "hidden_activation": "gelu_pytorch_tanh"}, "differ"),
        (gemma, {"hidden_act": None, "hidden_activation": "gleu"}, "Did you mean 'gelu'"),
        (gemma, {"use_bidirectional_attention": True}, "use_bidirectional_attention"),
        (gemma, {"attn_logit_softcapping": 50.0}, "a key we do not know"),
        (gemma2, {"layer_types": ["full_attention"]}, "layer_types"),
        (gemma2, {"layer_types": ["local"] * 26}, "layer_types"),
        (gemma2, {"sliding_window_size": 2048}, "sliding_window_size"),
        (gemma2, {"final_logit_softcapping": 0}, "final_logit_softcapping"),
        (gemma2, {"query_pre_attn_scalar": -1}, "query_pre_attn_scalar"),
    ],
)
def test_configs_that_are_refused(family: Any, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        family.spec({**family.PRESETS["2b"], **changes})

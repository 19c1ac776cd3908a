"""What the families with latent attention say beyond the parity rows: drafts, names, windows, bodies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from transformers.cache_utils import MtpCache
from transformers.modeling_layers import MtpModel

from tests.families.parity import TOLERANCE, Reference
from vitral.errors import CheckpointError
from vitral.families import deepseek_v3, mistral, names_of, preset_config, r1_distill
from vitral.families.common import latent
from vitral.families.common.config import Config
from vitral.nn import Causal, Grouped, KeyValue, Kind, Latent, Rotary, Window, Yarn, drafted
from vitral.weights.load import load_model, open_checkpoint
from vitral.weights.save import save_folder

Make = Callable[[str], Reference]
V3 = preset_config("deepseek_v3/v3")


# ── drafts ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_draft_is_that_of_transformers_too(reference: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second opinion beside NumPy: the same folder, read by both."""
    ref = reference("latent-draft")
    # There the published depth, 61, is written into the pattern of the names.
    monkeypatch.setattr(hf.DeepseekV3ForCausalLM, "_keys_to_ignore_on_load_unexpected", [r"model\.layers\.2.*"])
    theirs = hf.DeepseekV3ForCausalLM.from_pretrained(ref.folder, attn_implementation="eager").eval()
    draft, ahead = MtpModel.from_pretrained(theirs), ref.ids[:, 1:]
    with torch.no_grad():
        hidden = theirs(ref.ids, output_hidden_states=True).hidden_states[-1][:, :-1]
        positions = torch.arange(1, ref.ids.shape[1])[None]
        cache = MtpCache(config=theirs.config.get_mtp_config())
        out = theirs.lm_head(draft.forward_layer(0, hidden, positions, cache, input_ids=ahead))
        (mine,) = drafted(ref.load(), ref.ids)
    assert (out - mine).abs().max() <= TOLERANCE


def test_the_tensors_decide_whether_there_is_a_draft(reference: Make, tmp_path: Path) -> None:
    ref = reference("latent-draft")
    config = json.loads((ref.folder / "config.json").read_text("utf-8"))
    assert config["num_nextn_predict_layers"] == 1 and len(ref.load().drafts) == 1
    tensors = load_file(ref.folder / "model.safetensors")
    without = {name: tensor for name, tensor in tensors.items() if ".layers.2." not in name}
    save_file(without, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(config), "utf-8")
    assert len(load_model(open_checkpoint(tmp_path))[0].drafts) == 0


@pytest.mark.parametrize("copy", ["embed_tokens", "shared_head.head"])
def test_a_file_may_repeat_the_shared_tensors_but_not_others_in_their_place(
    reference: Make, tmp_path: Path, copy: str
) -> None:
    """Published files write out the embedding and the head of the draft, which are the model's."""
    ref = reference("latent-draft")
    original = {"embed_tokens": "model.embed_tokens.weight", "shared_head.head": "lm_head.weight"}[copy]
    tensors = load_file(ref.folder / "model.safetensors")
    (tmp_path / "config.json").write_bytes((ref.folder / "config.json").read_bytes())
    tensors[f"model.layers.2.{copy}.weight"] = tensors[original].clone()
    save_file(tensors, tmp_path / "model.safetensors")
    model = load_model(open_checkpoint(tmp_path))[0]
    assert torch.equal(*(next(drafted(each, ref.ids)) for each in (model, ref.load())))
    tensors[f"model.layers.2.{copy}.weight"] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"'model.layers.2.{copy}.weight' differs from '{original}'"):
        load_model(open_checkpoint(tmp_path))


def test_a_broken_draft_is_named(reference: Make, tmp_path: Path) -> None:
    ref = reference("latent-draft")
    tensors = load_file(ref.folder / "model.safetensors")
    del tensors["model.layers.2.shared_head.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((ref.folder / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"lacks 'model\.layers\.2\.shared_head\.norm\.weight'"):
        load_model(open_checkpoint(tmp_path))


def test_two_drafts_form_a_chain(tmp_path: Path, reference: Make) -> None:
    ref = reference("latent-draft")
    config = {**json.loads((ref.folder / "config.json").read_text("utf-8")), latent.DRAFTS: 2}
    model = deepseek_v3.spec(config).build()
    folder = save_folder(
        tmp_path / "x", model=model, names=names_of(deepseek_v3, config), config=config, dtype="float32"
    )
    names = load_file(folder / "model.safetensors").keys()
    assert {"model.layers.2.enorm.weight", "model.layers.3.mlp.experts.5.up_proj.weight"} <= names
    again = load_model(open_checkpoint(folder))[0]
    assert len(again.drafts) == 2
    first, second = drafted(again, ref.ids)
    assert (first.shape[1], second.shape[1]) == (36, 35)
    changed = ref.ids.clone()
    changed[:, 20] = (changed[:, 20] + 1) % 61
    for k, (a, b) in enumerate(zip((first, second), drafted(again, changed), strict=True), 1):
        differs = (a != b).any(-1).any(0).nonzero()[0].item()
        assert differs == 20 - k  # no guess had seen the token, nor one after it, before its turn


def test_the_bias_of_the_choice_stays_as_it_is_in_bfloat16(reference: Make) -> None:
    """Its steps of 1e-3 would drown; published files hold it in float32 beside weights in 8 bits."""
    ref = reference("latent-plain")
    for model in (ref.load(torch.bfloat16), ref.load().bfloat16()):
        (router,) = (module for module in model.modules() if isinstance(module, Grouped))
        published = load_file(ref.folder / "model.safetensors")["model.layers.1.mlp.gate.e_score_correction_bias"]
        assert model.dtype == torch.bfloat16 and torch.equal(router.bias, published)


# ── what the numbers of the published files make ────────────────────────────────────────────────────────────


def test_the_published_scale() -> None:
    spec = deepseek_v3.spec({**V3, "num_hidden_layers": 1})
    (attention,) = (each for each in spec.walk() if each.part is Latent)
    assert attention.args["scale"] == pytest.approx(192**-0.5 * (0.1 * 3.6888794541139363 + 1) ** 2)  # ln 40
    assert attention.args["position"].args["scaling"].magnitude == 1.0


def test_the_draft_of_the_published_model_has_11_6_billion_parameters() -> None:
    """One more layer of experts, the join of 2d numbers into d, and three norms."""
    with_it, without = (deepseek_v3.spec({**V3, latent.DRAFTS: n}).count().total for n in (1, 0))
    d, H = 7168, 128
    attention = d * 1536 + 1536 + 1536 * H * 192 + d * 576 + 512 + 512 * H * 256 + H * 128 * d
    assert with_it - without == attention + 256 * d + 257 * 3 * d * 2048 + 2 * d + 2 * d * d + 3 * d == 11_610_067_968


def test_a_cache_of_576_numbers_a_token_and_layer() -> None:
    made = latent.attention(c := Config(V3, "x"), 7168, latent.rotary(c, 4096)[0]).build(device="meta")
    sizes: list[int] = []

    def allocate(kind: Kind, *asked: int) -> KeyValue:
        sizes.extend(asked)
        return KeyValue(kind, torch.empty(0), torch.empty(0))

    made.new_cache(allocate)
    assert sizes == [1, 512, 64] and made.absorb == 170


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scoring_func": "softmax"}, "'scoring_func' is 'softmax'"),
        ({"topk_method": "greedy"}, "'topk_method' is 'greedy'"),
        ({"moe_layer_freq": 2}, "'moe_layer_freq' is 2"),
        ({"n_group": 7}, "n_routed_experts 256 is not a multiple of n_group 7"),
        ({"topk_group": 9}, "'topk_group' is 9"),
        ({"num_key_value_heads": 8}, "'num_key_value_heads' is 8"),
        ({"auto_map": {"AutoModel": "x.X"}}, "'auto_map' wants"),
        ({"kv_lora_rank": None}, "lacks 'kv_lora_rank'"),
        ({"index_topk": 2048}, "'index_topk'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_not_computed_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=said):
        deepseek_v3.spec({**V3, "num_hidden_layers": 4, **change})


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (preset_config("mistral/7b-v0.1"), Window(4096)),
        (preset_config("mistral/7b-v0.2"), Causal()),
        (preset_config("mistral/7b-v0.3"), Causal()),
        ({}, Window(4096)),  # what the absence of the key meant when v0.1 came out
        ({"sliding_window": None}, Causal()),
    ],
)
def test_null_is_no_window_and_silence_is_one(config: dict[str, Any], kind: Any) -> None:
    assert mistral.kind(Config(config, "mistral")) == kind


@pytest.mark.parametrize("preset", list(r1_distill.PRESETS))
def test_each_distilled_body_keeps_its_own_base(preset: str) -> None:
    config = {**r1_distill.PRESETS[preset], "num_hidden_layers": 1}
    (rotary,) = (each for each in r1_distill.spec(config).walk() if each.part is Rotary)
    theta = {"qwen-1.5b": 1e4, "qwen-7b": 1e4, "qwen-14b": 1e6, "qwen-32b": 1e6}.get(preset, 5e5)
    assert rotary.args["theta"] == theta
    with pytest.raises(CheckpointError, match="model_type is 'yi'"):
        r1_distill.spec({**config, "model_type": "yi"})


def test_yarn_by_either_name_is_one_yarn() -> None:
    rope = {**V3["rope_scaling"]}
    older = latent.rotary(Config({**V3, "rope_scaling": rope}, "x"), 163840)[0]
    kind = rope.pop("type")
    newer = {key: value for key, value in V3.items() if key != "rope_scaling"}
    newer = latent.rotary(Config({**newer, "rope_parameters": {**rope, "rope_type": kind}}, "x"), 163840)[0]
    assert older.args["scaling"] == newer.args["scaling"] and isinstance(older.args["scaling"], Yarn)

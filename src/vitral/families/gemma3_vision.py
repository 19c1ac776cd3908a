"""Gemma 3 that sees (arXiv:2503.19786 §2.1): 256 soft tokens a picture, in the places that the text keeps for them.

pixels ─ SigLIP tower ─ 64×64 patches, averaged to 16×16 ─ RMSNorm ─ projection ─▶ soft tokens
ids ─ tokens · sqrt(d) ─ soft tokens in their places ─ the blocks of `gemma3`, where they see each other both ways
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitral.errors import CheckpointError
from vitral.families import gemma3, siglip
from vitral.families.common.config import Config
from vitral.families.common.rules import Names, Rule, Transposed
from vitral.families.common.vision import part
from vitral.nn import Pooled, RMSNorm, Sight, Spec

CARD = gemma3.CARD
MODEL_TYPE = "gemma3"
DEFAULTS: dict[str, Any] = {"mm_tokens_per_image": 256, "image_token_index": 262144}
IMAGE = {**siglip.IMAGE, "vision_use_head": True}


def _rules(text: str, head: str, tower: str, projector: str) -> dict[str, Rule]:
    words = {f"{text}{name}": rule for name, rule in gemma3.NAMES.rules.items() if name != "lm_head.weight"}
    return {
        **words,
        f"{head}.weight": "head.proj.weight",
        **siglip.rules(tower, "vision.tower"),
        f"{projector}.mm_soft_emb_norm.weight": "vision.projector.norm.weight",
        f"{projector}.mm_input_projection_weight": Transposed("vision.projector.proj.weight"),
    }


_HUB = ("language_model.model.", "language_model.lm_head", "vision_tower.vision_model.", "multi_modal_projector")
_MEMORY = ("model.language_model.", "lm_head", "model.vision_tower.vision_model.", "model.multi_modal_projector")
_FLAT = tuple(name.replace(".vision_model.", ".") for name in _HUB)
_FLAT_MEMORY = tuple(name.replace(".vision_model.", ".") for name in _MEMORY)
NAMES = Names(  # the published names first; releases of transformers have written all four
    rules=_rules(*_HUB) | _rules(*_FLAT) | _rules(*_MEMORY) | _rules(*_FLAT_MEMORY),
    tied={
        "language_model.lm_head.weight": "language_model.model.embed_tokens.weight",
        "lm_head.weight": "model.language_model.embed_tokens.weight",
    },
)


def spec(config: Mapping[str, Any]) -> Spec:
    """The model a multimodal Gemma 3 `config.json` describes."""
    c = Config(config, "gemma3", DEFAULTS)
    tower, side = siglip.image(seen := part(c, "vision_config", IMAGE, "siglip_vision_model"))
    if tower.args["pooler"] is not None:
        raise CheckpointError("config.json: the vision tower has a pooling head", "It must say vision_use_head: false")
    words = part(c, "text_config", gemma3.DEFAULTS, "gemma3_text")
    text = gemma3.of(words)
    d, tokens = seen.size("hidden_size"), c.size("mm_tokens_per_image")
    norm = Spec(RMSNorm, d=d, eps=seen.number("layer_norm_eps"), offset=1.0)
    for key in ("boi_token_index", "eoi_token_index"):
        c.get(key, None)  # what stands around a picture is for whoever writes the text
    c.only("tie_word_embeddings", True)
    vision = Spec(
        Sight,
        tower=tower,
        projector=Spec(Pooled, side=side, tokens=tokens, d=d, d_model=words.size("hidden_size"), norm=norm),
        token=c.size("image_token_index", least=0),
    )
    c.finish()
    return text.replace(vision=vision)

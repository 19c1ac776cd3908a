"""Gemini 1.0 and 1.5 (Google 2023, arXiv:2312.11805, arXiv:2403.05530): a card. Of their sizes two were published."""

from __future__ import annotations

from typing import Any

from vitral.families.common.assemble import Card

CARD = Card(
    title="Gemini 1.0 / 1.5",
    year=2023,
    org="Google",
    kind="decoder, multimodal",
    source="arXiv:2312.11805, arXiv:2403.05530",
    idea="text, images, sound and video in one sequence from the start; then a context of millions of tokens",
    licence="closed",
    facts=(
        "1.0: a decoder with efficient attention (multi-query, for one), context 32,768, images out by discrete tokens",
        "1.0 Nano-1 has 1.8B and Nano-2 3.25B parameters, both distilled and quantised to 4 bits",
        "1.0 Ultra: MMLU 90.04 by uncertainty-routed chain of thought over 32 samples",
        "1.5 Pro: a sparse mixture of experts; recall above 99% in texts of up to 10M tokens",
        "1.5 Flash: dense, distilled from Pro, attention and FFN computed in parallel",
    ),
    unpublished=("sizes of Ultra, Pro and Flash", "layers and widths", "number of experts", "training data"),
    traps=("only the two Nano sizes have a source",),
    stand_in="gemma3/4b",
    recipe="not published",
)
PRESETS: dict[str, dict[str, Any]] = {}

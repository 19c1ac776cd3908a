"""o1 (OpenAI 2024): a card. What it does was described; its size, architecture and training algorithm were not."""

from __future__ import annotations

from typing import Any

from vitral.families.common.assemble import Card

CARD = Card(
    title="OpenAI o1",
    year=2024,
    org="OpenAI",
    kind="decoder",
    source="OpenAI, Learning to Reason with LLMs (September 2024); OpenAI o1 System Card",
    idea="reinforcement learning teaches a model to think before it answers; thinking longer answers better",
    licence="closed",
    facts=(
        "large-scale reinforcement learning on a hidden chain of thought",
        "accuracy rises with the logarithm of compute, in training as at test time",
        "AIME 2024: 74% with one sample, 83% by majority of 64, 93% by re-ranking 1000 with a learned scorer",
        "GPQA Diamond 77 to 78%; Codeforces 89th percentile",
    ),
    unpublished=("size", "architecture", "training algorithm", "training data"),
    traps=("o1-preview and o1 have different published scores: say which of the two is quoted",),
    stand_in="r1_distill/qwen-1.5b",
    recipe="not published; the open counterpart learns by GRPO on answers that can be checked (arXiv:2501.12948)",
)
PRESETS: dict[str, dict[str, Any]] = {}

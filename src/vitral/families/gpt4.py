"""GPT-4 (OpenAI 2023, arXiv:2303.08774): a card. Neither size nor architecture was published, and no weights."""

from __future__ import annotations

from typing import Any

from vitral.families.common.assemble import Card

CARD = Card(
    title="GPT-4",
    year=2023,
    org="OpenAI",
    kind="decoder, multimodal input",
    source="arXiv:2303.08774",
    idea="images and text in, text out; its final loss foretold from runs of a thousandth of the compute and less",
    licence="closed",
    facts=(
        "a Transformer pre-trained to predict the next token, then tuned by RLHF with rule-based reward models",
        "takes images and text, gives text; contexts of 8,192 and 32,768 tokens",
        "final loss foretold by L = a·C^b + c from runs with at most 1/10,000 of the compute",
        "pass rate on part of HumanEval foretold from runs with at most 1/1,000 of the compute",
        "MMLU 86.4 (5-shot), HumanEval 67.0 (0-shot), a simulated bar exam near the 90th percentile",
    ),
    unpublished=("architecture", "size", "hardware", "compute", "training data", "training method"),
    traps=("the figures for its size and its experts that go round have no published source",),
    stand_in="gemma3/4b",
    recipe="the law of the loss can be fitted on small runs of one's own",
)
PRESETS: dict[str, dict[str, Any]] = {}

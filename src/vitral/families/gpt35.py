"""GPT-3.5 and ChatGPT (OpenAI 2022): a card. Neither size nor architecture was published, and no weights."""

from __future__ import annotations

from typing import Any

from vitral.families.common.assemble import Card

CARD = Card(
    title="GPT-3.5 / ChatGPT",
    year=2022,
    org="OpenAI",
    kind="decoder",
    source="OpenAI, model index for researchers (2022); OpenAI, Introducing ChatGPT (November 2022)",
    idea="a model of code and text, tuned on demonstrations and human preference, that talks",
    licence="closed",
    facts=(
        "code-davinci-002, trained on text and code, is the base of the line",
        "text-davinci-002 is it after supervised tuning on demonstrations and highly rated samples (FeedME)",
        "text-davinci-003 is tuned by PPO against a reward model",
        "ChatGPT was tuned from a model of this line by RLHF, with the method of InstructGPT and data in dialogue form",
    ),
    unpublished=("size", "layers and widths", "training data", "compute"),
    traps=("no parameter count has a source: attach none",),
    stand_in="llama2/7b",
    recipe="supervised tuning in chat form, then preference optimisation (DPO, PPO), as published for instructgpt",
)
PRESETS: dict[str, dict[str, Any]] = {}

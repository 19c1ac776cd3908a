"""PaLM 2 (Google 2023, arXiv:2305.10403): a card. Sizes and layers were not published, and no weights."""

from __future__ import annotations

from typing import Any

from vitral.families.common.assemble import Card

CARD = Card(
    title="PaLM 2",
    year=2023,
    org="Google",
    kind="decoder",
    source="arXiv:2305.10403",
    idea="a smaller model, trained for longer on a tuned mixture of objectives, passes a larger one",
    licence="closed",
    facts=(
        "a Transformer trained on a tuned mixture of objectives in the spirit of UL2",
        "three sizes, S, M and L; the largest is much smaller than the 540B of PaLM and took more compute to train",
        "a study of its own confirms that parameters and tokens should grow about equally",
        "more languages than before, parallel text among them; control tokens for toxicity in part of the data",
    ),
    unpublished=("sizes", "layers and widths", "tokens", "ratios of the data mixture"),
    traps=("its table of compute-optimal sizes belongs to the scaling study, not to the models S, M and L",),
    stand_in="ul2/20b",
    recipe="not published beyond the above; UL2's mixture of denoisers is (arXiv:2205.05131)",
)
PRESETS: dict[str, dict[str, Any]] = {}

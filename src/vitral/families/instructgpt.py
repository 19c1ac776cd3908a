"""InstructGPT (Ouyang et al. 2022, arXiv:2203.02155): a GPT-3 body with one number a token beside, or for, its words.

The reward of a text is the number at its last token (§3.5: the unembedding goes, a projection to a scalar comes, and a
bias sets the mean reward of the demonstrations to 0); the value function of the policy gradient reads it at every token
and starts from the reward model (App. C.4). One 6B reward model serves policies of every size.

`score: true` adds the projection, `language_head: false` leaves out the words: a reward or value model as published.
The presets have both, the policy with its value beside it. "6B" is the 6.7B body.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from vitral.families import gpt3
from vitral.families.common.assemble import Card
from vitral.families.common.config import Config
from vitral.nn import Score, Spec

CARD = Card(
    title="InstructGPT",
    year=2022,
    org="OpenAI",
    kind="decoder",
    source="arXiv:2203.02155 §3, App. C",
    idea="people rank answers, a reward model learns their ranks, and the policy learns to please it: 1.3B beats 175B",
    licence="closed",
    traps=(
        "the reward is read at the last token of the text, not at padding after it",
        "one inner PPO epoch, not four",
        "the run that was evaluated (16 epochs) is not the one PPO starts from (2 epochs, 10% pre-training mix)",
    ),
    unpublished=("weights", "the policy's learning rate in the released models"),
    stand_in="gpt2/small",
    recipe="supervised tuning, then rankings of 4 to 9 answers, then PPO with a KL penalty of 0.02 a token",
)
MODEL_TYPE = "instructgpt"
DEFAULTS = gpt3.DEFAULTS
NAMES = replace(
    gpt3.NAMES,
    bare=(*gpt3.NAMES.bare, "score.{}"),
    rules={**gpt3.NAMES.rules, "score.{}": "score.proj.{}"},
)


def spec(config: Mapping[str, Any]) -> Spec:
    """The policy, reward or value model that a config of this family describes."""
    c = Config(config, "instructgpt", DEFAULTS)
    score, words = c.flag("score", True), c.flag("language_head", True)
    model = gpt3.build(c)
    if score:
        model = model.replace(score=Spec(Score, d=c.size("n_embd")))
    return model if words else model.replace(head=None)


def preset(size: str) -> dict[str, Any]:
    """A config of this family over a GPT-3 body."""
    return {**gpt3.PRESETS[size], "model_type": MODEL_TYPE, "score": True, "language_head": True}


PRESETS = {"1.3b": preset("xl"), "6b": preset("6.7b"), "175b": preset("175b")}

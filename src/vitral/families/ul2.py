"""UL2 (Tay et al. 2022, arXiv:2205.05131): the shape of T5 v1.1 with SwiGLU, trained on a mixture of denoisers."""

from __future__ import annotations

from vitral.families.common.assemble import Card
from vitral.families.t5 import DEFAULTS, MODEL_TYPE, NAMES, complete, names, preset, spec

__all__ = ["CARD", "DEFAULTS", "MODEL_TYPE", "NAMES", "PRESETS", "complete", "names", "spec"]

CARD = Card(
    title="UL2",
    year=2022,
    org="Google",
    kind="encoder-decoder",
    source="arXiv:2205.05131 §3, Table 1",
    idea="one model for reading and writing: a mixture of denoising tasks, told apart by a mode token",
    licence="Apache-2.0",
    traps=("a mode token ([NLU], [NLG], [S2S]) must come first for the behaviour of its mode",),
    recipe="seven denoisers (short, long and heavy spans; prefixes), drawn anew for each example; 1T tokens of C4",
)
PRESETS = {"20b": preset(32, 4096, 16384, 16, 256, feed_forward_proj="gated-silu", tie_word_embeddings=False)}

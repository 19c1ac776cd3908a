"""Loading a model, reading a prompt, writing an answer.

    python bench/speed.py [MODEL]          default: smollm2-135m-instruct, in float32

Medians of a few runs in this process. A shared machine moves them by a half, so compare two versions in turns.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch

import vitral

PROMPT, ANSWER = 256, 48
"""Tokens."""


def median(work: Callable[[], object], runs: int = 5) -> float:
    """Seconds, after one run that does not count."""
    work()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def main(name: str = "smollm2-135m-instruct") -> None:
    start = time.perf_counter()
    lm = vitral.load(name)
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"load      {time.perf_counter() - start:8.2f} s")
    ids = torch.randint(0, lm.config["vocab_size"], (1, PROMPT), generator=torch.Generator().manual_seed(0))
    print(f"prefill   {PROMPT / median(lambda: lm.logits(ids)):8.1f} tokens a second")

    def answer(tokens: int) -> float:
        options = {"max_tokens": tokens, "temperature": 0.0, "ignore_eos": True}
        return median(lambda: lm.generate("Once upon a time", **options), runs=3)

    # the difference leaves out the prompt and whatever else happens once
    print(f"decode    {ANSWER / (answer(ANSWER + 8) - answer(8)):8.1f} tokens a second")


if __name__ == "__main__":
    main(*sys.argv[1:])

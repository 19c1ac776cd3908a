"""What `lm.logits` costs over the bare module on the same ids: A B A B …, medians of the pairs' ratios.

    python bench/overhead.py [MODEL] [--tokens 16 64 256]

The wrapper checks its input, builds the step and enters inference mode; the bare call is given ids and a ready step.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

import vitral


def once(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--tokens", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    lm = vitral.load(args.model)
    for tokens in args.tokens:
        ids = torch.randint(0, 1000, (1, tokens))
        with torch.inference_mode():
            step = lm.model.step(ids)

            def bare(ids: torch.Tensor = ids, step=step) -> None:
                lm.model(ids, step)

            def wrapped(ids: torch.Tensor = ids) -> None:
                lm.logits(ids)

            bare(), wrapped()
            pairs = [(once(bare), once(wrapped)) for _ in range(args.rounds)]
        ratio = statistics.median(b / a for a, b in pairs)
        print(
            f"{tokens:5d} tokens: bare {statistics.median(a for a, _ in pairs) * 1e3:7.1f} ms, lm.logits × {ratio:.3f}"
        )


if __name__ == "__main__":
    main()

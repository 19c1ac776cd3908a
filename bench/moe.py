"""What a mixture of experts costs over a dense feed-forward of the same active size: A B A B …, medians of the pairs.

    python bench/moe.py [--d-model 512] [--d-ff 1024] [--experts 8] [--top-k 2]

The mixture has experts of width d_ff, of which a token meets top_k; the dense one has width top_k · d_ff, so both
multiply as many numbers a token. What is over is routing, sorting and smaller matrices.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from vitral.nn import Causal, Gated, GatedExperts, MoE, Renormalised, SiLU, full_step


def once(module: nn.Module, x: torch.Tensor, step, backward: bool) -> float:
    start = time.perf_counter()
    out = module(x, step)
    if backward:
        out.sum().backward()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--d-ff", type=int, default=1024)
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--top-k", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    dense = Gated(d_model=args.d_model, d_ff=args.top_k * args.d_ff, act=SiLU())
    moe = MoE(
        router=Renormalised(d_model=args.d_model, n_experts=args.experts, top_k=args.top_k),
        experts=GatedExperts(n=args.experts, d_model=args.d_model, d_ff=args.d_ff, act=SiLU()),
    )
    x = torch.randn(args.batch, args.tokens, args.d_model)
    step = full_step([Causal()], args.tokens)
    for name, backward in (("forward", False), ("forward and backward", True)):
        with torch.set_grad_enabled(backward):
            once(dense, x, step, backward), once(moe, x, step, backward)
            pairs = [(once(dense, x, step, backward), once(moe, x, step, backward)) for _ in range(args.rounds)]
        ratio = statistics.median(b / a for a, b in pairs)
        dense_best, moe_best = (min(times) for times in zip(*pairs, strict=True))
        median = statistics.median(a for a, _ in pairs)
        print(
            f"{name:20s}: dense {median * 1e3:7.1f} ms, mixture × {ratio:.3f}"
            f" (the fastest of each: {dense_best * 1e3:.1f} ms, × {moe_best / dense_best:.3f})"
        )


if __name__ == "__main__":
    main()

"""Ask llama.cpp how likely it finds given ids: the outside judge of a GGUF that we wrote.

    echo '[[1, 9690, 198], [1, 4093]]' | python check_llamacpp.py model.gguf

Reads a JSON list of id lists, prints a JSON list of {"logprobs", "top"} in the same order: for every position but the
last, the log-probability of the id that follows, and the id that llama.cpp itself would have put there. Needs
llama-cpp-python.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import llama_cpp
import numpy as np


def judge(model: llama_cpp.Llama, ids: list[int]) -> dict[str, list]:
    """Teacher-forced: every position sees the given ids before it."""
    model.reset()
    model.eval(ids)
    logits = model.scores[: len(ids) - 1].astype(np.float64)
    logits -= logits.max(axis=-1, keepdims=True)
    logprobs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return {
        "logprobs": logprobs[np.arange(len(ids) - 1), ids[1:]].tolist(),
        "top": logprobs.argmax(axis=-1).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path)
    args = parser.parse_args()

    rows = json.load(sys.stdin)
    longest = max(len(ids) for ids in rows)
    model = llama_cpp.Llama(str(args.gguf), n_ctx=longest, n_batch=longest, n_threads=1, logits_all=True, verbose=False)
    json.dump([judge(model, ids) for ids in rows], sys.stdout)
    print()


if __name__ == "__main__":
    main()

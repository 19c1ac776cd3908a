"""How far llama.cpp's quantised arithmetic is from the same GGUF dequantised: both over the very same ids.

    python compare_smollm2.py SmolLM2-135M-Instruct.Q4_1.gguf

Runs transformers, teacher-forced, over llama.cpp's recorded answers (smollm2_llamacpp.json) and prints one JSON object.
Nothing is written. README.md quotes the figures and says what they are the yardstick for.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from record_smollm2_transformers import HERE, load, prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("gguf", type=Path, help="the SmolLM2 GGUF file")
    args = parser.parse_args()

    torch.set_num_threads(1)
    model, tokenizer = load(args.gguf)
    ours = {name: ids for name, _, ids in prompts(tokenizer)}
    answers = json.loads((HERE / "smollm2_llamacpp.json").read_text(encoding="utf-8"))["answers"]
    apart, margins, llama_margins = [], [], []
    for answer in answers:
        prompt, tokens = answer["prompt_ids"], answer["tokens"]
        if ours[answer["name"]] != prompt:
            raise SystemExit(f"{answer['name']}: the two tokenizers disagree on the prompt")
        ids = [token["id"] for token in tokens]
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + ids[:-1]]), use_cache=False).logits[0, len(prompt) - 1 :]
        logprobs = logits.double().log_softmax(-1).numpy()
        for row, token in zip(logprobs, tokens, strict=True):
            apart.append(abs(row[token["id"]] - token["logprob"]))
            if row.argmax() != token["id"]:
                margins.append(row.max() - row[token["id"]])
                llama_margins.append(token["top"][0][1] - dict(token["top"]).get(int(row.argmax()), np.nan))
    report = {
        "positions": len(apart),
        "median": float(np.median(apart)),
        "p95": float(np.quantile(apart, 0.95)),
        "largest": float(max(apart)),
        "top_differs": len(margins),
        "largest_margin_transformers": float(max(margins, default=0.0)),
        "largest_margin_llamacpp": float(np.nanmax([*llama_margins, 0.0])),
    }
    print(json.dumps({key: round(value, 4) for key, value in report.items()}))


if __name__ == "__main__":
    main()
